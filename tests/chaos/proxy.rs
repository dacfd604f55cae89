//! A TCP proxy between one process and nats-server, which delays, holds back, loses and cuts.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinHandle,
};

/// What happens to bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// They arrive.
    Pass,
    /// Each lot of them arrives so much later.
    Delay(Duration),
    /// They wait until the mode is another.
    Hold,
    /// They are swallowed and the connections stay. A connection that has lost bytes is cut when the mode is another:
    /// a stream cannot go on with a hole in it.
    Lose(Way),
    /// New connections are closed at once. Connections that are there go on: see [`Proxy::cut`].
    Refuse,
}

/// The way that bytes are lost on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    ToServer,
    FromServer,
    Both,
}

/// A port in front of another. Everything ends when it is dropped.
pub struct Proxy {
    pub address: SocketAddr,
    control: Control,
    task: JoinHandle<()>,
}

#[derive(Clone)]
struct Control {
    mode: Arc<watch::Sender<Mode>>,
    /// Connections of an earlier number are cut.
    generation: Arc<watch::Sender<u64>>,
}

impl Proxy {
    /// Listens on a free port, for whoever is on this machine.
    pub async fn start(server_port: u16) -> Self {
        Self::at(Ipv4Addr::LOCALHOST, server_port).await
    }

    /// Listens on a free port of this address.
    pub async fn at(address: Ipv4Addr, server_port: u16) -> Self {
        let listener = TcpListener::bind((address, 0)).await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let control = Control {
            mode: Arc::new(watch::channel(Mode::Pass).0),
            generation: Arc::new(watch::channel(0).0),
        };
        let task = tokio::spawn(accept(listener, server_port, control.clone()));
        Self { address, control, task }
    }

    pub fn set(&self, mode: Mode) {
        self.control.mode.send_replace(mode);
    }

    /// Cuts every connection that is there.
    pub fn cut(&self) {
        self.control.generation.send_modify(|generation| *generation += 1);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
        self.cut();
    }
}

async fn accept(listener: TcpListener, server_port: u16, control: Control) {
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        if *control.mode.borrow() == Mode::Refuse {
            continue;
        }
        let control = control.clone();
        tokio::spawn(async move {
            let mut generation = control.generation.subscribe();
            let born = *generation.borrow_and_update();
            tokio::select! {
                _ = connection(client, server_port, &control) => {}
                _ = generation.wait_for(|now| *now != born) => {}
            }
        });
    }
}

async fn connection(client: TcpStream, server_port: u16, control: &Control) -> io::Result<()> {
    let server = TcpStream::connect(("127.0.0.1", server_port)).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let ((client_in, client_out), (server_in, server_out)) = (client.into_split(), server.into_split());
    let holed = Arc::new(AtomicBool::new(false));
    let mut modes = control.mode.subscribe();
    let healed = async {
        // The first look is at the mode as it is now.
        loop {
            let losing = matches!(*modes.borrow_and_update(), Mode::Lose(_));
            if !losing && holed.load(Ordering::SeqCst) {
                return;
            }
            if modes.changed().await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        ended = pump(client_in, server_out, Way::ToServer, control, &holed) => ended,
        ended = pump(server_in, client_out, Way::FromServer, control, &holed) => ended,
        () = healed => Ok(()),
    }
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    way: Way,
    control: &Control,
    holed: &AtomicBool,
) -> io::Result<()> {
    let mut modes = control.mode.subscribe();
    let mut bytes = vec![0; 64 << 10];
    loop {
        let count = from.read(&mut bytes).await?;
        if count == 0 {
            return Ok(());
        }
        loop {
            let mode = *modes.borrow_and_update();
            match mode {
                Mode::Lose(lost) if lost == way || lost == Way::Both => {
                    holed.store(true, Ordering::SeqCst);
                    break;
                }
                Mode::Hold => {
                    if modes.changed().await.is_err() {
                        return Ok(());
                    }
                    continue;
                }
                Mode::Delay(time) => tokio::time::sleep(time).await,
                Mode::Pass | Mode::Refuse | Mode::Lose(_) => {}
            }
            to.write_all(&bytes[..count]).await?;
            break;
        }
        // A hole that was made just after the mode was another would never be seen again.
        if holed.load(Ordering::SeqCst) && !matches!(*control.mode.borrow(), Mode::Lose(_)) {
            return Ok(());
        }
    }
}
