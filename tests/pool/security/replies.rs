//! A worker answers with its own rights, so it does not answer where an answer would do something.

use futures::{FutureExt, StreamExt};
use sd_worker_rbee::contract::{Capability, EventKind};

use super::processes::MODEL;
use crate::support::{
    nats::NatsServer,
    worker::{PATIENCE, Pool, next_event},
};

#[tokio::test]
async fn a_reply_subject_that_means_something_gets_no_answer() {
    // A server of its own: workers of other pools answer discovery too.
    let server = NatsServer::start();
    let pool = Pool::on(&server.url()).await;
    let _worker = pool.worker("a", MODEL, &[]).await;
    let own = |subject: &str| format!("{}.{subject}", pool.prefix);
    let targets = [
        own("events.victim"),
        own("worker.victim.heartbeat"),
        own("jobs.image.generate.m.victim"),
        own("queued.victim"),
        "$JS.API.STREAM.MSG.DELETE.JOBS".into(),
        "$JS.API.STREAM.PURGE.JOBS".into(),
    ];
    for (number, target) in targets.iter().enumerate() {
        let mut victim = pool.client.subscribe(target.clone()).await.unwrap();
        let id = format!("job-{number}");
        let mut events = pool.events(&id).await;
        let body = format!(r#"{{"prompt":"a","steps":1,"job_id":"{id}"}}"#);
        let subject = pool.subjects.image(Capability::Generate);
        // Between two jobs the worker may have no slot free.
        let taken = async {
            loop {
                pool.client
                    .publish_with_reply(subject.clone(), target.clone(), body.clone().into())
                    .await
                    .unwrap();
                let wait =
                    tokio::time::timeout(std::time::Duration::from_millis(300), next_event(&mut events));
                if wait.await.is_ok() {
                    return;
                }
            }
        };
        tokio::time::timeout(PATIENCE, taken).await.expect("it is drawn all the same");
        while !matches!(next_event(&mut events).await.kind, EventKind::Complete(_)) {}
        // The server's own "no responders" has a status; an answer of a worker has none.
        while let Some(Some(message)) = victim.next().now_or_never() {
            assert!(message.status.is_some(), "{target}: {message:?}");
        }
    }
    let mut victim = pool.events("victim").await;
    let inbox = pool.client.new_inbox();
    let mut replies = pool.client.subscribe(inbox.clone()).await.unwrap();
    pool.client.publish_with_reply("$SRV.PING", own("events.victim"), "".into()).await.unwrap();
    pool.client.publish_with_reply("$SRV.PING", inbox, "".into()).await.unwrap();
    tokio::time::timeout(PATIENCE, replies.next()).await.unwrap().expect("discovery answers an inbox");
    assert!(victim.next().now_or_never().is_none());
}
