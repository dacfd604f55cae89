//! The proxy by itself, in front of a server that sends back what it gets.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::proxy::{Mode, Proxy, Way};

/// Long enough for bytes that do come.
const WITHIN: Duration = Duration::from_secs(10);

async fn echo() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
            });
        }
    });
    port
}

async fn connected(proxy: &Proxy) -> TcpStream {
    TcpStream::connect(proxy.address).await.unwrap()
}

/// One byte there and back; `None` when the connection has ended.
async fn round_trip(stream: &mut TcpStream, byte: u8) -> Option<u8> {
    stream.write_all(&[byte]).await.ok()?;
    answer(stream).await
}

async fn answer(stream: &mut TcpStream) -> Option<u8> {
    let mut byte = [0];
    let read = tokio::time::timeout(WITHIN, stream.read_exact(&mut byte)).await.expect("an answer or an end");
    read.ok().map(|_| byte[0])
}

#[tokio::test]
async fn bytes_pass_and_a_delay_makes_them_late() {
    let proxy = Proxy::start(echo().await).await;
    let mut stream = connected(&proxy).await;
    assert_eq!(round_trip(&mut stream, 1).await, Some(1));
    proxy.set(Mode::Delay(Duration::from_millis(150)));
    let begun = std::time::Instant::now();
    assert_eq!(round_trip(&mut stream, 2).await, Some(2));
    assert!(begun.elapsed() >= Duration::from_millis(300), "once on each way: {:?}", begun.elapsed());
}

#[tokio::test]
async fn what_is_held_back_arrives_in_the_end() {
    let proxy = Proxy::start(echo().await).await;
    let mut stream = connected(&proxy).await;
    assert_eq!(round_trip(&mut stream, 1).await, Some(1));
    proxy.set(Mode::Hold);
    stream.write_all(&[2]).await.unwrap();
    let early = tokio::time::timeout(Duration::from_millis(200), stream.read_u8()).await;
    assert!(early.is_err(), "{early:?}");
    proxy.set(Mode::Pass);
    assert_eq!(answer(&mut stream).await, Some(2));
}

#[tokio::test]
async fn a_partition_keeps_connections_and_loses_bytes_until_it_heals() {
    for way in [Way::ToServer, Way::FromServer, Way::Both] {
        let proxy = Proxy::start(echo().await).await;
        let mut stream = connected(&proxy).await;
        assert_eq!(round_trip(&mut stream, 1).await, Some(1));
        proxy.set(Mode::Lose(way));
        stream.write_all(&[2]).await.unwrap();
        let lost = tokio::time::timeout(Duration::from_millis(200), stream.read_u8()).await;
        assert!(lost.is_err(), "{way:?}: neither bytes nor an end: {lost:?}");
        proxy.set(Mode::Pass);
        assert_eq!(answer(&mut stream).await, None, "{way:?}: a stream with a hole is cut");
        assert_eq!(round_trip(&mut connected(&proxy).await, 3).await, Some(3));
    }
}

#[tokio::test]
async fn a_partition_in_which_nothing_was_said_costs_nothing() {
    let proxy = Proxy::start(echo().await).await;
    let mut stream = connected(&proxy).await;
    assert_eq!(round_trip(&mut stream, 1).await, Some(1));
    proxy.set(Mode::Lose(Way::Both));
    proxy.set(Mode::Pass);
    assert_eq!(round_trip(&mut stream, 2).await, Some(2));
}

#[tokio::test]
async fn a_cut_ends_connections_and_new_ones_can_be_refused() {
    let proxy = Proxy::start(echo().await).await;
    let mut stream = connected(&proxy).await;
    assert_eq!(round_trip(&mut stream, 1).await, Some(1));
    proxy.set(Mode::Refuse);
    assert_eq!(round_trip(&mut stream, 2).await, Some(2), "what is there goes on");
    assert_eq!(round_trip(&mut connected(&proxy).await, 3).await, None);
    proxy.cut();
    assert_eq!(answer(&mut stream).await, None);
    proxy.set(Mode::Pass);
    assert_eq!(round_trip(&mut connected(&proxy).await, 4).await, Some(4));
}
