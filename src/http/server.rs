//! An address of this process: bound before anything else is done, and answered from then on.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::Router;
use tokio::{net::TcpListener, sync::Notify, task::JoinHandle};

use super::serve;

/// How long connections that are open may go on when a server is stopped.
pub const STOP_LIMIT: Duration = Duration::from_secs(2);

/// An HTTP server, until it is stopped.
pub struct HttpServer {
    server: JoinHandle<()>,
    stop: Arc<Notify>,
}

impl HttpServer {
    fn start(listener: TcpListener, routes: Router) -> Self {
        let stop = Arc::new(Notify::new());
        let told = stop.clone();
        let server = tokio::spawn(async move {
            let stopped = async move { told.notified().await };
            if let Err(error) = serve(listener, routes, stopped, STOP_LIMIT).await {
                tracing::error!(%error, "the HTTP server ended");
            }
        });
        Self { server, stop }
    }

    /// Takes no more connections, and waits for those that are open.
    pub async fn stop(self) {
        self.stop.notify_one();
        if let Err(error) = self.server.await {
            tracing::warn!(%error, "the HTTP server was lost");
        }
    }
}

/// The address of a process that starts.
pub struct Listener {
    listener: TcpListener,
    meanwhile: HttpServer,
}

impl Listener {
    /// Serves `meanwhile` there, until the process has started.
    ///
    /// # Errors
    /// When the address cannot be had.
    pub fn bind(address: SocketAddr, meanwhile: Router) -> io::Result<Self> {
        let first = std::net::TcpListener::bind(address)?;
        first.set_nonblocking(true)?;
        let listener = TcpListener::from_std(first.try_clone()?)?;
        let first = TcpListener::from_std(first)?;
        Ok(Self { listener, meanwhile: HttpServer::start(first, meanwhile) })
    }

    /// From now on these are served.
    pub async fn started(self, routes: Router) -> HttpServer {
        let server = HttpServer::start(self.listener, routes);
        self.meanwhile.stop().await;
        server
    }

    /// The listener, at which connections wait for whoever serves them from now on.
    pub async fn hand_over(self) -> TcpListener {
        self.meanwhile.stop().await;
        self.listener
    }
}
