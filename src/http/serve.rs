//! Serving until told to stop, and stopping in bounded time.

use std::{
    future::{Future, IntoFuture},
    io,
    net::SocketAddr,
    time::Duration,
};

use axum::Router;
use tokio::net::TcpListener;

/// Serves `router` until `stop` resolves, then takes no more connections and gives those that are open `grace`
/// to end. A handler can extract the peer's address, as `ConnectInfo<SocketAddr>`.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    stop: impl Future<Output = ()> + Send + 'static,
    grace: Duration,
) -> io::Result<()> {
    let (stopped, told) = tokio::sync::oneshot::channel::<()>();
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    let served = axum::serve(listener, service).with_graceful_shutdown(async move {
        stop.await;
        // The receiver is gone only when serving has already ended.
        let _ = stopped.send(());
    });
    tokio::select! {
        ended = served.into_future() => ended,
        () = async {
            let _ = told.await;
            tokio::time::sleep(grace).await;
        } => {
            tracing::warn!("connections were still open after {grace:?}; they are cut");
            Ok(())
        }
    }
}
