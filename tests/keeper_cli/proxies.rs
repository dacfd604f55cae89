//! Proxies of the environment and of `--proxy`.

use std::path::Path;

use tokio::{net::TcpListener, process::Command};

use crate::{
    rude::{Reply, Rude, as_queen, html},
    stand_in::{finish, generate, keeper},
};

/// An address where nobody listens.
async fn nobody() -> String {
    let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    format!("http://{address}")
}

fn draw(queen: &str, folder: &Path, more: &[&str]) -> Command {
    keeper(queen, folder, &generate(&[&["-o", "a.png"], more].concat()))
}

#[tokio::test]
async fn a_queen_on_this_machine_is_asked_directly() {
    let queen = Rude::start(|_, _| Reply::AsQueen).await;
    let folder = tempfile::tempdir().unwrap();
    let port = queen.url.rsplit_once(':').unwrap().1;
    for host in ["127.0.0.1", "localhost"] {
        let mut command = draw(&format!("http://{host}:{port}"), folder.path(), &[]);
        for name in ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "HTTPS_PROXY"] {
            command.env(name, nobody().await);
        }
        let (code, _, stderr) = finish(command).await;
        assert_eq!(code, 0, "{host}: {stderr}");
    }
}

#[tokio::test]
async fn a_proxy_that_fails_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let proxy = nobody().await;
    let mut command = draw("http://queen.invalid", folder.path(), &[]);
    command.env("http_proxy", proxy.replace("http://", "http://me:hunter2@"));
    let (code, _, stderr) = finish(command).await;
    assert_eq!(code, 3, "{stderr}");
    assert!(stderr.contains(&format!("through the proxy {proxy}")) && stderr.contains("refused"), "{stderr}");
    assert!(!stderr.contains("hunter2"), "{stderr}");

    let portal =
        Rude::start(|_, _| Reply::Bytes(html("407 Proxy Authentication Required", "Who are you?"))).await;
    let mut command = draw("http://queen.invalid", folder.path(), &[]);
    command.env("HTTP_PROXY", &portal.url);
    let (code, _, stderr) = finish(command).await;
    assert_eq!(code, 3, "{stderr}");
    assert!(stderr.contains(&portal.url) && stderr.contains("status 407"), "{stderr}");

    for scheme in ["https", "http"] {
        let mut command = draw(&format!("{scheme}://queen.invalid"), folder.path(), &[]);
        command.env("ALL_PROXY", "socks5://127.0.0.1:1");
        let (code, _, stderr) = finish(command).await;
        assert_eq!(code, 2, "{stderr}");
        assert!(
            stderr.contains("socks5://127.0.0.1:1") && stderr.contains("NO_PROXY=queen.invalid"),
            "{stderr}"
        );
    }
}

#[tokio::test]
async fn a_proxy_that_is_asked_for_is_used_for_this_machine_too() {
    let proxy = Rude::start(|request, _| Reply::Bytes(as_queen(request))).await;
    let folder = tempfile::tempdir().unwrap();
    let queen = nobody().await;
    let (code, _, stderr) = finish(draw(&queen, folder.path(), &["--proxy", &proxy.url])).await;
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(proxy.seen("POST")[0].line, format!("POST {queen}/v1/jobs"));
    let (code, _, stderr) = finish(draw(&queen, folder.path(), &["--proxy", &nobody().await])).await;
    assert_eq!(code, 3, "{stderr}");
    assert!(stderr.contains("(--proxy)"), "{stderr}");
}

#[tokio::test]
async fn a_name_that_nobody_knows_and_a_server_without_tls_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let (code, _, stderr) = finish(draw("http://queen.invalid", folder.path(), &[])).await;
    assert_eq!(code, 3, "{stderr}");
    assert!(stderr.contains("cannot reach queen at http://queen.invalid/"), "{stderr}");
    let plain = Rude::start(|_, _| Reply::AsQueen).await;
    let (code, _, stderr) = finish(draw(&plain.url.replace("http:", "https:"), folder.path(), &[])).await;
    assert_eq!(code, 3, "{stderr}");
    assert!(!stderr.contains("InvalidContentType"), "{stderr}");
}
