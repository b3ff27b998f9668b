//! Can this host's KVM run an ordinary guest? A device node that opens does not say so.
//!
//! Where a host emulates KVM for its own guests, `/dev/kvm` opens and small programs run, but
//! every instruction of kernel code is interpreted at under a million a second, and an ordinary
//! kernel hangs. So three things are asked: does the device open, has the processor hardware
//! virtualisation, and how fast does a guest of a few bytes run in ring 0.
#![allow(unsafe_code)] // ioctl and mmap: KVM has no safe interface

use std::fs::{File, OpenOptions};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

/// The test guest is given up after this.
const PROBE_MAX: Duration = Duration::from_millis(200);

/// What was found out about KVM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// Whether `/dev/kvm` opens for us, or why not.
    pub device: Result<(), String>,
    /// Whether the processor claims hardware virtualisation (`vmx` or `svm`).
    pub hardware: bool,
    /// How the test guest fared.
    pub guest: Guest,
}

/// How the test guest fared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Guest {
    /// It ran in ring 0 at this rate.
    Ran {
        /// Instructions a second.
        instructions_per_s: u64,
    },
    /// It did not run.
    Failed {
        /// The call that failed and how.
        why: String,
    },
    /// There was no reason to try.
    NotTried,
}

impl Evidence {
    /// Looks at this host, for at most 200 ms. The test guest runs only where the answer is not
    /// known without it, or always with `thorough`.
    pub fn gather(thorough: bool) -> Evidence {
        let device = OpenOptions::new().read(true).write(true).open("/dev/kvm");
        let hardware = has_hardware();
        let guest = match &device {
            Ok(kvm) if hardware || thorough => match kvm.try_clone() {
                Ok(kvm) => run_bounded(kvm),
                Err(e) => Guest::Failed { why: e.to_string() },
            },
            _ => Guest::NotTried,
        };
        Evidence { device: device.map(drop).map_err(|e| e.to_string()), hardware, guest }
    }
}

/// On ARM a `/dev/kvm` exists only where the hardware does.
#[cfg(not(target_arch = "x86_64"))]
fn has_hardware() -> bool {
    true
}

#[cfg(target_arch = "x86_64")]
fn has_hardware() -> bool {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = cpuinfo.lines().find(|l| l.starts_with("flags")).unwrap_or_default();
    flags.split_whitespace().any(|f| f == "vmx" || f == "svm")
}

/// The guest ends by itself; a KVM that does not return from it costs a thread, not the program.
fn run_bounded(kvm: File) -> Guest {
    let (done, answer) = channel();
    let spawned = thread::Builder::new().name("kvm-probe".into()).spawn(move || {
        let _ = done.send(probe::run(&kvm));
    });
    if let Err(e) = spawned {
        return Guest::Failed { why: e.to_string() };
    }
    match answer.recv_timeout(PROBE_MAX) {
        Ok(Ok(instructions_per_s)) => Guest::Ran { instructions_per_s },
        Ok(Err(why)) => Guest::Failed { why },
        Err(RecvTimeoutError::Timeout) => {
            Guest::Failed { why: format!("no answer in {} ms", PROBE_MAX.as_millis()) }
        }
        Err(RecvTimeoutError::Disconnected) => Guest::Failed { why: "it crashed".into() },
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod probe {
    /// A real KVM: see [`super::has_hardware`].
    pub(super) fn run(_kvm: &std::fs::File) -> Result<u64, String> {
        Ok(crate::accel::RING0_RATE_MIN)
    }
}

#[cfg(target_arch = "x86_64")]
mod probe {
    //! Structures and numbers as in the kernel's `Documentation/virt/kvm/api.rst`.

    use std::ffi::c_void;
    use std::fs::File;
    use std::os::fd::{AsFd, BorrowedFd, FromRawFd};
    use std::ptr;
    use std::time::{Duration, Instant};

    use rustix::ioctl::{self, Ioctl, IoctlOutput, Opcode, Setter, Updater, opcode};
    use rustix::mm::{self, MapFlags, ProtFlags};

    const KVMIO: u8 = 0xAE;
    const API_VERSION: usize = 12;
    const EXIT_IO: u32 = 2;
    const PAGE: usize = 4096;
    /// The VCPU's shared page holds the exit reason here.
    const EXIT_REASON_AT: usize = 8;

    /// Turns of the guest's loop, two instructions each, before it says so: 30 ms where emulated.
    const TURNS: u32 = 10_000;
    /// Reports are awaited until this has passed...
    const MEASURE: Duration = Duration::from_millis(20);
    /// ...or this many came.
    const REPORTS_MAX: u32 = 100;

    /// 32-bit code: `1: mov ecx, TURNS; 2: dec ecx; jnz 2b; out 0x10, al; jmp 1b`.
    fn code() -> [u8; 12] {
        let [a, b, c, d] = TURNS.to_le_bytes();
        [0xB9, a, b, c, d, 0x49, 0x75, 0xFD, 0xE6, 0x10, 0xEB, 0xF4]
    }

    #[repr(C)]
    struct MemoryRegion {
        slot: u32,
        flags: u32,
        guest_phys_addr: u64,
        memory_size: u64,
        userspace_addr: u64,
    }

    #[repr(C)]
    #[derive(Clone, Copy)]
    struct Segment {
        base: u64,
        limit: u32,
        selector: u16,
        kind: u8,
        present: u8,
        dpl: u8,
        db: u8,
        s: u8,
        l: u8,
        g: u8,
        avl: u8,
        unusable: u8,
        padding: u8,
    }

    #[repr(C)]
    struct Sregs {
        cs: Segment,
        ds: Segment,
        es: Segment,
        fs: Segment,
        gs: Segment,
        ss: Segment,
        tr: Segment,
        ldt: Segment,
        tables: [u64; 4],
        cr0: u64,
        others: [u64; 6],
        interrupts: [u64; 4],
    }

    /// `rax rbx rcx rdx rsi rdi rsp rbp r8..r15 rip rflags`.
    type Regs = [u64; 18];

    const CREATE_VM: Opcode = opcode::none(KVMIO, 0x01);
    const CREATE_VCPU: Opcode = opcode::none(KVMIO, 0x41);
    const SET_USER_MEMORY_REGION: Opcode = opcode::write::<MemoryRegion>(KVMIO, 0x46);
    const RUN: Opcode = opcode::none(KVMIO, 0x80);
    const SET_REGS: Opcode = opcode::write::<Regs>(KVMIO, 0x82);
    const GET_SREGS: Opcode = opcode::read::<Sregs>(KVMIO, 0x83);
    const SET_SREGS: Opcode = opcode::write::<Sregs>(KVMIO, 0x84);
    const GET_API_VERSION: Opcode = opcode::none(KVMIO, 0x00);

    /// An ioctl with the argument 0 that answers with a number.
    struct Ask<const O: Opcode>;

    // SAFETY: the argument is no pointer, and the answer is the return value alone.
    unsafe impl<const O: Opcode> Ioctl for Ask<O> {
        type Output = usize;
        const IS_MUTATING: bool = false;
        fn opcode(&self) -> Opcode {
            O
        }
        fn as_ptr(&mut self) -> *mut c_void {
            ptr::null_mut()
        }
        unsafe fn output_from_ptr(out: IoctlOutput, _: *mut c_void) -> rustix::io::Result<usize> {
            Ok(out as usize)
        }
    }

    fn ask<const O: Opcode>(fd: BorrowedFd<'_>, name: &str) -> Result<usize, String> {
        // SAFETY: see `Ask`; the numbers used here take no pointer.
        unsafe { ioctl::ioctl(fd, Ask::<O>) }.map_err(|e| format!("{name}: {e}"))
    }

    fn ask_fd<const O: Opcode>(fd: BorrowedFd<'_>, name: &str) -> Result<File, String> {
        let number = ask::<O>(fd, name)?;
        // SAFETY: KVM_CREATE_VM and KVM_CREATE_VCPU answer with a new descriptor that is ours.
        Ok(unsafe { File::from_raw_fd(number as i32) })
    }

    fn give<const O: Opcode, T>(fd: BorrowedFd<'_>, name: &str, value: T) -> Result<(), String> {
        // SAFETY: `O` was made from the size of `T`, which is laid out as the kernel's structure.
        unsafe { ioctl::ioctl(fd, Setter::<O, T>::new(value)) }.map_err(|e| format!("{name}: {e}"))
    }

    /// Memory that is unmapped with it.
    struct Mapping(*mut c_void, usize);

    impl Drop for Mapping {
        fn drop(&mut self) {
            // SAFETY: the mapping is ours and nobody else has its address any more.
            let _ = unsafe { mm::munmap(self.0, self.1) };
        }
    }

    /// Ring-0 instructions a second.
    pub(super) fn run(kvm: &File) -> Result<u64, String> {
        let version = ask::<GET_API_VERSION>(kvm.as_fd(), "KVM_GET_API_VERSION")?;
        if version != API_VERSION {
            return Err(format!("KVM API {version}"));
        }
        let vm = ask_fd::<CREATE_VM>(kvm.as_fd(), "KVM_CREATE_VM")?;
        let memory = guest_memory()?;
        let region = MemoryRegion {
            slot: 0,
            flags: 0,
            guest_phys_addr: 0,
            memory_size: PAGE as u64,
            userspace_addr: memory.0 as u64,
        };
        let name = "KVM_SET_USER_MEMORY_REGION";
        give::<SET_USER_MEMORY_REGION, _>(vm.as_fd(), name, region)?;
        let vcpu = ask_fd::<CREATE_VCPU>(vm.as_fd(), "KVM_CREATE_VCPU")?;
        // SAFETY: a new shared mapping of the VCPU's first page, at an address of the kernel's.
        let page = unsafe {
            let prot = ProtFlags::READ | ProtFlags::WRITE;
            mm::mmap(ptr::null_mut(), PAGE, prot, MapFlags::SHARED, &vcpu, 0)
        };
        let page = Mapping(page.map_err(|e| format!("mmap: {e}"))?, PAGE);
        enter_protected_mode(&vcpu)?;
        measure(&vcpu, &page)
    }

    fn guest_memory() -> Result<Mapping, String> {
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: new anonymous memory, at an address of the kernel's choosing.
        let memory = unsafe { mm::mmap_anonymous(ptr::null_mut(), PAGE, prot, MapFlags::PRIVATE) };
        let memory = Mapping(memory.map_err(|e| format!("mmap: {e}"))?, PAGE);
        let code = code();
        // SAFETY: the page is ours, writable, and longer than the code.
        unsafe { ptr::copy_nonoverlapping(code.as_ptr(), memory.0.cast(), code.len()) };
        Ok(memory)
    }

    /// Flat 32-bit protected mode in ring 0: old processors emulate real mode, which would lie.
    fn enter_protected_mode(vcpu: &File) -> Result<(), String> {
        // SAFETY: all-zero bytes are a valid `Sregs`.
        let mut sregs: Sregs = unsafe { std::mem::zeroed() };
        // SAFETY: KVM_GET_SREGS fills a structure of this size and layout.
        unsafe { ioctl::ioctl(vcpu, Updater::<GET_SREGS, Sregs>::new(&mut sregs)) }
            .map_err(|e| format!("KVM_GET_SREGS: {e}"))?;
        let flat = |segment: &mut Segment, selector, kind| {
            let (base, limit, unusable) = (0, u32::MAX, 0);
            let (present, dpl, db, s, l, g) = (1, 0, 1, 1, 0, 1);
            *segment = Segment {
                base,
                limit,
                selector,
                kind,
                present,
                dpl,
                db,
                s,
                l,
                g,
                unusable,
                ..*segment
            };
        };
        flat(&mut sregs.cs, 8, 11);
        flat(&mut sregs.ds, 16, 3);
        flat(&mut sregs.es, 16, 3);
        flat(&mut sregs.ss, 16, 3);
        sregs.cr0 |= 1;
        give::<SET_SREGS, _>(vcpu.as_fd(), "KVM_SET_SREGS", sregs)?;
        let mut regs: Regs = [0; 18];
        regs[17] = 2; // the bit of rflags that is always set; rip is 0
        give::<SET_REGS, _>(vcpu.as_fd(), "KVM_SET_REGS", regs)
    }

    fn measure(vcpu: &File, page: &Mapping) -> Result<u64, String> {
        let began = Instant::now();
        let mut reports = 0;
        while reports < REPORTS_MAX && began.elapsed() < MEASURE {
            // SAFETY: see `Ask`; the guest writes to its own memory and nowhere else.
            match unsafe { ioctl::ioctl(vcpu, Ask::<RUN>) } {
                Err(rustix::io::Errno::INTR) => continue,
                result => result.map_err(|e| format!("KVM_RUN: {e}"))?,
            };
            // SAFETY: the kernel keeps a u32 there; the page is mapped and nobody else reads it.
            let reason = unsafe { page.0.byte_add(EXIT_REASON_AT).cast::<u32>().read_volatile() };
            if reason != EXIT_IO {
                return Err(format!("KVM_RUN: exit reason {reason}"));
            }
            reports += 1;
        }
        let instructions = u128::from(reports) * u128::from(2 * TURNS);
        let rate = instructions * 1_000_000_000 / began.elapsed().as_nanos().max(1);
        Ok(u64::try_from(rate).unwrap_or(u64::MAX))
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn structures_are_as_long_as_the_kernels() {
            assert_eq!(size_of::<MemoryRegion>(), 32);
            assert_eq!(size_of::<Segment>(), 24);
            assert_eq!(size_of::<Sregs>(), 312);
            assert_eq!(size_of::<Regs>(), 144);
        }
    }
}
