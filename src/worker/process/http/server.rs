//! The address of `--http`: bound before anything is loaded, and answered from then on.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::Router;
use tokio::{net::TcpListener, sync::Notify, task::JoinHandle};

use super::{WorkerJobs, while_it_starts};

/// How long open HTTP connections may go on after the last job.
pub const STOP_LIMIT: Duration = Duration::from_secs(2);

/// An HTTP server of this worker, until it is stopped.
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
            if let Err(error) = crate::http::serve(listener, routes, stopped, STOP_LIMIT).await {
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

/// The address of a worker that starts: it answers that from the beginning.
pub struct Listener {
    listener: TcpListener,
    meanwhile: HttpServer,
}

impl Listener {
    /// Answers that the worker starts.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let first = std::net::TcpListener::bind(address)?;
        first.set_nonblocking(true)?;
        let listener = TcpListener::from_std(first.try_clone()?)?;
        let first = TcpListener::from_std(first)?;
        Ok(Self { listener, meanwhile: HttpServer::start(first, while_it_starts()) })
    }

    /// From now on these are served.
    pub async fn started(self, jobs: WorkerJobs) -> HttpServer {
        let server = HttpServer::start(self.listener, jobs.routes());
        self.meanwhile.stop().await;
        server
    }
}
