//! What requests say is no label: however many models, routes and methods they name, a page stays as long as it is.

use futures::{StreamExt, stream};

use super::{job, queen, scrape, value, worker};
use crate::support::worker::Pool;

/// Names that are sent; the unit tests of `metrics` count to 100,000.
const NAMES: usize = 1_000;

#[tokio::test]
async fn requests_for_many_models_leave_no_trace_in_labels() {
    let pool = Pool::new().await;
    let (_worker, base) = worker(&pool, "a", "m=sim://?step_ms=1&size=64", &[]).await;
    // Nobody sends so much so fast but a test.
    let queen = queen(&pool, &["--rate-limit", "0", "--request-limit", "0"]);
    super::until(&queen.url, r#"sd_queen_model_workers{model="m"}"#, |n| n == 1.0).await;
    super::until(&queen.url, "sd_queen_sweep_age_seconds", |_| true).await;
    let client = reqwest::Client::new();
    let send = |(at, number): (&str, usize)| {
        let (client, url) = (client.clone(), at.to_owned());
        async move {
            let body = job(&format!("made-up-{number}"), "a", 1).to_string();
            let refused = client.post(format!("{url}/v1/jobs")).body(body).send().await.expect("an answer");
            assert_eq!(refused.status(), 404);
            let path = format!("{url}/v1/jobs/made-up-{number}");
            assert_eq!(client.get(path).send().await.expect("an answer").status(), 404);
            let path = format!("{url}/made-up-{number}");
            assert_eq!(client.get(path).send().await.expect("an answer").status(), 404);
            let method = reqwest::Method::from_bytes(format!("MADEUP{number}").as_bytes()).expect("a method");
            client.request(method, url).send().await.expect("an answer");
        }
    };
    // The first of each route makes its series.
    for at in [&base, &queen.url] {
        send((at, NAMES)).await;
    }
    let before = [scrape(&base).await, scrape(&queen.url).await];
    let all = (0..NAMES).flat_map(|number| [(&*base, number), (&*queen.url, number)]);
    stream::iter(all).map(send).buffer_unordered(8).for_each(|()| async {}).await;
    let after = [scrape(&base).await, scrape(&queen.url).await];
    for (before, after) in before.iter().zip(&after) {
        assert!(!after.to_lowercase().contains("made-up") && !after.contains("MADEUP"), "{after}");
        assert!(after.lines().count() <= before.lines().count() + 5, "{before}\n{after}");
    }
    assert_eq!(value(&after[0], "sd_worker_refused_total"), Some((NAMES + 1) as f64), "{}", after[0]);
    let refused = r#"sd_queen_requests_total{route="/v1/jobs",method="POST",status="404"}"#;
    assert_eq!(value(&after[1], refused), Some((NAMES + 1) as f64), "{}", after[1]);
}
