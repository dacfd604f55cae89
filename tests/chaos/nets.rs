//! A network between the processes of a pool: each has a namespace of its own, with one wire to NATS and one to the store,
//! and either can be pulled out of the switch.
//!
//! A wire that is out makes no noise: no connection is closed or refused, nothing is unreachable, packets go nowhere. TCP
//! sends them again, so that a short outage is a delay and a long one ends when a process has lost its patience. That is
//! what the proxies cannot do, which cut a connection that has lost bytes.
//!
//! Namespaces, switch and wires are held by processes that end with the test, however it ends, and go with them.

use std::{
    fs,
    net::Ipv4Addr,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

/// Enough for a process to be in its namespace on a busy machine.
const WITHIN: Duration = Duration::from_secs(20);
/// What networks are made of: 198.18.0.0/15 is for tests of networks, and nobody's.
const NATS_NET: u8 = 18;
const STORE_NET: u8 = 19;
/// Seats begin behind the address of the test.
const FIRST_SEAT: u8 = 10;

/// A wire of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    Nats,
    /// To the store, and from clients to a queen.
    Store,
}

impl Wire {
    fn name(self) -> &'static str {
        match self {
            Self::Nats => "nats",
            Self::Store => "store",
        }
    }

    fn net(self) -> u8 {
        match self {
            Self::Nats => NATS_NET,
            Self::Store => STORE_NET,
        }
    }
}

/// The switches of a pool, one for each kind of wire, with the test at each of them.
pub struct Nets {
    switch: Space,
    /// The third number of its addresses.
    number: u8,
    seats: u8,
}

/// The place of a process.
pub struct Seat {
    space: Space,
    switch: u32,
    net: u8,
    number: u8,
}

/// A namespace, and the process that holds it.
struct Space(Child);

impl Nets {
    /// `None`, with a line that says why, where it is not allowed or `ip` is missing.
    pub fn make() -> Option<Self> {
        match Self::try_make() {
            Ok(nets) => Some(nets),
            Err(why) => {
                println!("network namespaces: left out: {why}");
                None
            }
        }
    }

    fn try_make() -> Result<Self, String> {
        let switch = Space::make()?;
        let number = free_number()?;
        for wire in [Wire::Nats, Wire::Store] {
            let (name, root) = (wire.name(), format!("chaos{}{}", &wire.name()[..1], number));
            ip(&format!("link add {root} type veth peer name up-{name} netns {}", switch.pid()))?;
            switch.ip(&format!("link add name {name} type bridge"))?;
            switch.ip(&format!("link set dev {name} up"))?;
            switch.ip(&format!("link set dev up-{name} up master {name}"))?;
            ip(&format!("addr add {}/24 dev {root}", address(wire, number, 1)))?;
            ip(&format!("link set dev {root} up"))?;
        }
        Ok(Self { switch, number, seats: 0 })
    }

    /// Where the test is, on this kind of wire.
    pub fn address(&self, wire: Wire) -> Ipv4Addr {
        address(wire, self.number, 1)
    }

    /// A place for one process more.
    ///
    /// # Panics
    /// When it cannot be made although the first could.
    pub fn seat(&mut self) -> Seat {
        let number = self.seats;
        self.seats += 1;
        let space = Space::make().expect("a namespace");
        let seat = Seat { space, switch: self.switch.pid(), net: self.number, number };
        seat.space.ip("link set dev lo up").expect("a loopback");
        for wire in [Wire::Nats, Wire::Store] {
            let (name, pid) = (wire.name(), seat.space.pid());
            let port = seat.port(wire);
            let made = self.switch.ip(&format!("link add {port} type veth peer name {name} netns {pid}"));
            made.expect("a wire");
            for line in
                [format!("addr add {}/24 dev {name}", seat.address(wire)), format!("link set dev {name} up")]
            {
                seat.space.ip(&line).expect("an address");
            }
            self.switch.ip(&format!("link set dev {port} up master {name}")).expect("a port");
        }
        seat
    }
}

impl Seat {
    pub fn address(&self, wire: Wire) -> Ipv4Addr {
        address(wire, self.net, FIRST_SEAT + self.number)
    }

    /// The program and its arguments, as they are run here. The process is the program itself.
    pub fn command(&self, program: &str, arguments: Vec<String>) -> (String, Vec<String>) {
        let mut all =
            vec!["-t".into(), self.space.pid().to_string(), "-n".into(), "--".into(), program.into()];
        all.extend(arguments);
        ("nsenter".into(), all)
    }

    /// Pulls the wire out.
    pub fn unplug(&self, wire: Wire) {
        self.at_switch(&format!("link set dev {} nomaster", self.port(wire)));
    }

    /// Puts the wire in, which may be in.
    pub fn plug(&self, wire: Wire) {
        self.at_switch(&format!("link set dev {} master {}", self.port(wire), wire.name()));
    }

    fn port(&self, wire: Wire) -> String {
        format!("{}{}", wire.name(), self.number)
    }

    fn at_switch(&self, line: &str) {
        ip_in(self.switch, line).expect("the switch is there");
    }
}

impl Space {
    fn make() -> Result<Self, String> {
        let mut command = Command::new("unshare");
        // It ends when its input does.
        command.args(["-n", "cat"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| format!("unshare: {error}"))?;
        let (ours, theirs) = ("/proc/self/ns/net".to_owned(), format!("/proc/{}/ns/net", child.id()));
        let until = Instant::now() + WITHIN;
        while fs::read_link(&theirs).ok() == fs::read_link(&ours).ok() {
            if child.try_wait().map_err(|error| error.to_string())?.is_some() || Instant::now() > until {
                let output = child.wait_with_output().map_err(|error| error.to_string())?;
                return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(Self(child))
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    fn ip(&self, line: &str) -> Result<(), String> {
        ip_in(self.pid(), line)
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

fn address(wire: Wire, number: u8, last: u8) -> Ipv4Addr {
    Ipv4Addr::new(198, wire.net(), number, last)
}

fn ip(line: &str) -> Result<(), String> {
    run(Command::new("ip").args(line.split_whitespace()))
}

fn ip_in(space: u32, line: &str) -> Result<(), String> {
    run(Command::new("nsenter").args(["-t", &space.to_string(), "-n", "ip"]).args(line.split_whitespace()))
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("{command:?}: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}

/// A number whose networks nobody on this machine has.
fn free_number() -> Result<u8, String> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let output = Command::new("ip").args(["-o", "-4", "addr", "show"]).output();
    let output = output.map_err(|error| format!("ip: {error}"))?;
    let there = String::from_utf8_lossy(&output.stdout).into_owned();
    for _ in 0..250 {
        let next = std::process::id().wrapping_mul(7).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let number = u8::try_from(1 + next % 250).expect("below 251");
        let is_there = |net: u8| there.contains(&format!(" 198.{net}.{number}."));
        if !is_there(NATS_NET) && !is_there(STORE_NET) {
            return Ok(number);
        }
    }
    Err("every network is taken".into())
}

/// A process at a seat talks to the test, and is not heard of while its wire is out; the connection is the same then.
#[test]
fn a_wire_that_is_out_loses_everything_and_closes_nothing() {
    use std::io::{Read, Write};

    let Some(mut nets) = Nets::make() else { return };
    let (seat, other) = (nets.seat(), nets.seat());
    let at = nets.address(Wire::Nats);
    let listener = std::net::TcpListener::bind((at, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    // What comes from the test goes back to it.
    let echo = format!("exec 3<>/dev/tcp/{at}/{port}; exec cat <&3 >&3");
    let talker = |seat: &Seat| {
        let (program, arguments) = seat.command("bash", vec!["-c".into(), echo.clone()]);
        let child = Command::new(program).args(arguments).stdin(Stdio::null()).spawn().unwrap();
        let (stream, from) = listener.accept().unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(400))).unwrap();
        assert_eq!(from.ip(), seat.address(Wire::Nats));
        (child, stream)
    };
    let (mut child, mut stream) = talker(&seat);
    let (mut neighbour, mut beside) = talker(&other);
    let mut byte = [0];
    let mut answer = |stream: &mut std::net::TcpStream, wait: u32| {
        (0..wait).find_map(|_| stream.read_exact(&mut byte).ok().map(|()| byte[0]))
    };
    stream.write_all(b"a").unwrap();
    assert_eq!(answer(&mut stream, 20), Some(b'a'));
    seat.unplug(Wire::Store);
    stream.write_all(b"b").unwrap();
    assert_eq!(answer(&mut stream, 20), Some(b'b'), "the other wire is another");
    seat.unplug(Wire::Nats);
    stream.write_all(b"c").unwrap();
    assert_eq!(answer(&mut stream, 3), None, "it is not heard of");
    beside.write_all(b"x").unwrap();
    assert_eq!(answer(&mut beside, 20), Some(b'x'), "its neighbour is");
    assert!(child.try_wait().unwrap().is_none(), "nobody has told it of anything");
    seat.plug(Wire::Nats);
    assert_eq!(answer(&mut stream, 50), Some(b'c'), "what was lost is sent again");
    drop((stream, beside));
    child.wait().unwrap();
    neighbour.wait().unwrap();
    let number = nets.number;
    drop((seat, other, nets));
    let until = Instant::now() + WITHIN;
    while fs::exists(format!("/sys/class/net/chaosn{number}")).unwrap() {
        assert!(Instant::now() < until, "nothing stays behind");
        std::thread::sleep(Duration::from_millis(10));
    }
}
