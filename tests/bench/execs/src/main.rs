//! What commands in a machine cost, as the library's user sees it.
//!
//! `execs IMAGE ROUNDS MIB NOTHING FLOOR` boots IMAGE (imported already), copies the two static
//! programs (../guest) into it, and prints lines `WHAT P50 P99`, milliseconds, over ROUNDS commands
//! each, and `stdout MIB/S` for MIB of a command's standard output.

use std::error::Error;
use std::time::{Duration, Instant};

use imgrun::{
    AccelChoice, Cancel, Exec, KvmEvidence, Machine, Progress, Spec, Status, Store, boot_max,
    choose_accel,
};

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

const WARM_UP: usize = 5;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [image, rounds, mib, nothing, floor] = &arguments[..] else {
        return Err("see the source".into());
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(measure(image, rounds.parse()?, mib, [nothing, floor]))
}

async fn measure(image: &str, rounds: usize, mib: &str, programs: [&str; 2]) -> Result<()> {
    let store = Store::open(Store::default_home()?)?;
    let (quiet, cancel) = (Progress::silent(), Cancel::new());
    let image = store.find(image, None, &quiet)?;
    let kernel = store.kernel(&image, None, None, &quiet, &cancel)?;
    let accel = choose_accel(AccelChoice::Auto, || KvmEvidence::gather(false))?.accel;
    let machine = Machine::boot(&store, &Spec::new(&image, &kernel, accel), boot_max(accel)).await?;
    println!("boot {:.1}", machine.booted_in().as_secs_f64() * 1e3);
    round_trips(&machine, "/bin/true", rounds).await?;
    for (program, name) in programs.into_iter().zip(["nothing", "floor"]) {
        copy(&machine, program, name).await?;
    }
    round_trips(&machine, "/nothing", rounds).await?;
    stdout(&machine, mib).await?;
    machine.shutdown().await?;
    Ok(())
}

fn exec(argv: &[&str]) -> Exec {
    Exec { argv: argv.iter().map(|word| word.as_bytes().to_vec()).collect(), ..Exec::default() }
}

async fn copy(machine: &Machine, program: &str, name: &str) -> Result<()> {
    let request = exec(&["sh", "-c", &format!("cat >/{name} && chmod +x /{name}")]);
    let request = Exec { stdin: true, ..request };
    let mut running = machine.exec(request).await.map_err(|e| e.error)?;
    let mut stdin = running.stdin.take().ok_or("no standard input")?;
    stdin.write(&std::fs::read(program)?).await?;
    drop(stdin);
    (running.wait().await?.status == Status::Code(0)).then_some(()).ok_or("not copied".into())
}

async fn round_trips(machine: &Machine, program: &str, rounds: usize) -> Result<()> {
    let mut times = Vec::new();
    for round in 0..rounds + WARM_UP {
        let began = Instant::now();
        let mut running = machine.exec(exec(&[program])).await.map_err(|e| e.error)?;
        while running.stdout.read().await?.is_some() {}
        running.wait().await?;
        if round >= WARM_UP {
            times.push(began.elapsed());
        }
    }
    times.sort();
    let at = |part: usize| times[(times.len() * part / 100).min(times.len() - 1)];
    let millis = |time: Duration| time.as_secs_f64() * 1e3;
    println!("{program} {:.2} {:.2}", millis(at(50)), millis(at(99)));
    Ok(())
}

async fn stdout(machine: &Machine, mib: &str) -> Result<()> {
    let request = exec(&["/floor", "pour", mib]);
    let mib: u64 = mib.parse()?;
    let began = Instant::now();
    let mut running = machine.exec(request).await.map_err(|e| e.error)?;
    let mut bytes = 0;
    while let Some(piece) = running.stdout.read().await? {
        bytes += piece.len() as u64;
    }
    running.wait().await?;
    if bytes != mib << 20 {
        return Err(format!("{bytes} bytes arrived").into());
    }
    println!("stdout {:.1}", mib as f64 / began.elapsed().as_secs_f64());
    Ok(())
}
