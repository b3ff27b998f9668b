//! The event loop: one thread, one host, many commands.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use agent::{
    Ack, CHANNELS_MAX, Fault, FaultCode, Frame, Hello, HostEvent, Message, PROTOCOL_MAX,
    PROTOCOL_MIN, ProtocolError, Restore, Restored, Shutdown, Status, Stream,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{WaitOptions, wait};

use crate::command::{BATCH_BYTES, Command};
use crate::host::{Heard, Host};
use crate::port::Port;
use crate::volume::Volume;
use crate::{clock, identity, power, sys};

/// Where this program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Setting {
    /// As PID 1.
    Init,
    /// As a unit of the image's systemd.
    Unit,
    /// On a developer's machine.
    Socket,
}

pub(crate) struct Server {
    setting: Setting,
    host: Host,
    children: OwnedFd,
    commands: BTreeMap<u32, Command>,
    /// What was read of an output.
    buffer: Vec<u8>,
    /// The upper file system, to be closed properly at the end.
    upper: Option<OwnedFd>,
    /// To be closed properly, too.
    volumes: Vec<Volume>,
    /// The stream has ended, or the host wants an end.
    over: bool,
}

/// What has become ready.
#[derive(Clone, Copy)]
enum Ready {
    Host,
    Children,
    Input(u32),
    Output(u32, usize),
}

impl Server {
    pub(crate) fn new(port: Port, setting: Setting) -> io::Result<Self> {
        Ok(Server {
            setting,
            host: Host::new(port, setting != Setting::Socket)?,
            children: sys::child_events()?,
            commands: BTreeMap::new(),
            buffer: vec![0; BATCH_BYTES],
            upper: None,
            volumes: Vec::new(),
            over: false,
        })
    }

    pub(crate) fn keep_disks(mut self, upper: OwnedFd, volumes: Vec<Volume>) -> Self {
        self.upper = Some(upper);
        self.volumes = volumes;
        self
    }

    /// Serves until the stream ends; a machine's never does.
    pub(crate) fn run(mut self) -> io::Result<()> {
        while !self.over {
            self.host.flush()?;
            for ready in self.wait()? {
                match ready {
                    Ready::Host => self.host.refresh(),
                    Ready::Children => self.reap(),
                    Ready::Input(channel) => {
                        if let Some(command) = self.commands.get_mut(&channel) {
                            command.write_input(&mut self.host);
                        }
                    }
                    Ready::Output(channel, at) => {
                        if let Some(command) = self.commands.get_mut(&channel) {
                            command.read_output(at, &mut self.host, &mut self.buffer);
                        }
                    }
                }
            }
            self.hear()?;
            self.settle();
        }
        self.end_session(None);
        Ok(())
    }

    /// Waits until something is ready or due.
    fn wait(&self) -> io::Result<Vec<Ready>> {
        let mut what = vec![Ready::Host, Ready::Children];
        let mut fds = vec![
            PollFd::from_borrowed_fd(self.host.edges(), PollFlags::IN),
            PollFd::new(&self.children, PollFlags::IN),
        ];
        let has_room = self.host.room() > 0;
        for (&channel, command) in &self.commands {
            if let Some(fd) = command.input_fd() {
                what.push(Ready::Input(channel));
                fds.push(PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::OUT));
            }
            for (at, fd) in command.output_fds().filter(|_| has_room) {
                what.push(Ready::Output(channel, at));
                fds.push(PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN));
            }
        }
        let due = self.commands.values().filter_map(Command::deadline).min();
        let timeout = match due {
            _ if self.host.has_work() => Some(Duration::ZERO),
            due => due.map(|at| at.saturating_duration_since(Instant::now())),
        };
        // A time too far away for the kernel is as good as none.
        let timeout = timeout.and_then(|t| Timespec::try_from(t).ok());
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(Vec::new()),
            Err(e) => return Err(e.into()),
        }
        let ready = fds.iter().zip(what).filter(|(fd, _)| !fd.revents().is_empty());
        Ok(ready.map(|(_, what)| what).collect())
    }

    /// Takes what the host has sent, one buffer of it.
    fn hear(&mut self) -> io::Result<()> {
        let end = match self.host.read()? {
            Heard::Bytes(n) => n,
            Heard::Nothing => return Ok(()),
            Heard::End => {
                self.over = true;
                return Ok(());
            }
        };
        let mut at = 0;
        while at < end {
            let event;
            (at, event) = self.host.next(at, end);
            match event {
                Ok(Some(HostEvent::Hello(hello))) => self.greet(&hello),
                Ok(Some(HostEvent::Frame(frame))) => self.obey(frame),
                Ok(None) => {}
                Err(error) => {
                    self.end_session(None);
                    self.complain(&error);
                }
            }
        }
        Ok(())
    }

    fn greet(&mut self, hello: &Hello) {
        self.end_session(hello.keep);
        self.host.forget();
        if self.setting != Setting::Socket {
            clock::correct(hello.wall_clock_unix_ns);
        }
        let protocol = hello.choose_protocol();
        if protocol.is_none() {
            self.host.close_session();
        }
        let ack = Ack {
            nonce: hello.nonce,
            protocol: protocol.unwrap_or(0),
            protocol_min: PROTOCOL_MIN,
            protocol_max: PROTOCOL_MAX,
            version: env!("CARGO_PKG_VERSION").into(),
            init: self.setting.init(),
            restores: self.setting != Setting::Socket,
        };
        self.host.send_raw(&ack.encode());
    }

    /// Kills every command but that of the channel `keep`, which begins anew.
    fn end_session(&mut self, keep: Option<u32>) {
        for (channel, mut command) in std::mem::take(&mut self.commands) {
            if Some(channel) == keep {
                command.begin_anew();
                self.commands.insert(channel, command);
            } else {
                command.kill();
            }
        }
    }

    fn obey(&mut self, frame: Frame) {
        let (channel, is_exec) = (frame.channel, frame.kind == agent::kind::EXEC);
        let message = match Message::decode(frame) {
            Ok(message) => message,
            Err(error) => {
                // Only the answer to EXEC may close a channel.
                let channel = if is_exec && !self.commands.contains_key(&channel) {
                    channel
                } else {
                    agent::CHANNEL_CONTROL
                };
                return self.refuse(channel, &error);
            }
        };
        match message {
            Message::Ping { token } => self.host.send(channel, &Message::Pong { token }),
            Message::Shutdown(kind) => self.shut_down(kind),
            Message::Restore(restore) => self.become_another(&restore),
            Message::Exec(exec) => self.execute(channel, &exec),
            Message::Data(Stream::Stdin, bytes) => {
                let Some(command) = self.commands.get_mut(&channel) else { return };
                if let Err(error) = command.push_input(&bytes, &mut self.host) {
                    command.signal(sys::SIGKILL);
                    self.complain(&error);
                }
            }
            Message::Credit { stream, bytes } => {
                if let Some(command) = self.commands.get_mut(&channel) {
                    command.credit(stream, bytes);
                }
            }
            Message::Signal { signo } => {
                if let Some(command) = self.commands.get(&channel) {
                    command.signal(i32::from(signo));
                }
            }
            Message::Resize(size) => {
                if let Some(command) = self.commands.get(&channel) {
                    command.resize(size);
                }
            }
            // What only an agent says.
            Message::Pong { .. }
            | Message::Restored(_)
            | Message::Error(_)
            | Message::Started { .. }
            | Message::Data(Stream::Stdout | Stream::Stderr, _)
            | Message::Exit(_) => {
                let fault = Fault {
                    code: FaultCode::BadRequest,
                    text: "this message is the agent's".into(),
                };
                self.host.send(agent::CHANNEL_CONTROL, &Message::Error(fault));
            }
        }
    }

    fn become_another(&mut self, restore: &Restore) {
        let failure = match self.setting {
            Setting::Socket => Some("this is no machine".to_string()),
            Setting::Init | Setting::Unit => identity::assume(restore).err(),
        };
        let kept = !self.commands.is_empty();
        let answer = Message::Restored(Restored { kept, failure });
        self.host.send(agent::CHANNEL_CONTROL, &answer);
    }

    fn execute(&mut self, channel: u32, exec: &agent::Exec) {
        let refused = |code, text: &str| Message::Error(Fault { code, text: text.into() });
        if self.commands.contains_key(&channel) {
            let message = refused(FaultCode::BadRequest, "this channel is in use");
            return self.host.send(agent::CHANNEL_CONTROL, &message);
        }
        if self.commands.len() >= CHANNELS_MAX {
            let message = refused(FaultCode::TooMany, "too many commands at a time");
            return self.host.send(channel, &message);
        }
        match Command::start(channel, exec) {
            Ok(command) => {
                self.host.send(channel, &Message::Started { pid: command.pid() as u32 });
                self.commands.insert(channel, command);
            }
            Err(fault) => self.host.send(channel, &Message::Error(fault)),
        }
    }

    fn complain(&mut self, error: &ProtocolError) {
        self.refuse(agent::CHANNEL_CONTROL, error);
    }

    fn refuse(&mut self, channel: u32, error: &ProtocolError) {
        let code = match error {
            ProtocolError::UnknownKind { .. } => FaultCode::Unsupported,
            _ => FaultCode::BadRequest,
        };
        self.host.send(channel, &Message::Error(Fault { code, text: error.to_string() }));
    }

    /// Collects every child that has ended: commands, and as PID 1 everybody's orphans.
    fn reap(&mut self) {
        let mut drain = [0; 1024];
        while rustix::io::read(&self.children, &mut drain).is_ok() {}
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            let pid = pid.as_raw_nonzero().get();
            let status = match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => Status::Code(code as u8),
                (None, Some(signal)) => Status::Signal(signal as u8),
                // Stopped or continued: not asked for.
                (None, None) => continue,
            };
            if let Some(command) = self.commands.values_mut().find(|c| c.runs_as(pid)) {
                command.ended(status);
            }
        }
    }

    /// Does what is due, and says good-bye to commands that are done.
    fn settle(&mut self) {
        let now = Instant::now();
        for command in self.commands.values_mut() {
            command.on_time(now, &mut self.host);
        }
        self.commands.retain(|&channel, command| match command.exit() {
            Some(exit) => {
                self.host.send(channel, &Message::Exit(exit));
                false
            }
            None => true,
        });
    }

    fn shut_down(&mut self, kind: Shutdown) {
        match self.setting {
            Setting::Init => {
                // Closes the terminals: their shells ignore SIGTERM, but not a hangup.
                self.commands.clear();
                power::shut_down(kind, self.upper.as_ref(), &self.volumes);
            }
            Setting::Unit => {
                self.end_session(None);
                rustix::fs::sync();
                power::ask_systemd(kind);
            }
            Setting::Socket => {
                self.end_session(None);
                self.over = true;
            }
        }
    }
}
