//! The rules and the dashboard that are shipped, with a real Prometheus that reads a real pool.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

use super::{families, job, queen, scrape, until, worker};
use crate::support::{
    process::{Leashed, free_port, listens, program},
    worker::{PATIENCE, Pool},
};

/// How often the pool is read here, and the range that stands for Grafana's `$__rate_interval`.
const EVERY: &str = "500ms";
const RATE: &str = "20s";

fn deployed(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(path)
}

fn promtool(arguments: &[&str]) {
    let mut command = Command::new(program("promtool", "PROMTOOL"));
    let said = command.args(arguments).current_dir(deployed("prometheus")).output().expect("promtool");
    assert!(
        said.status.success(),
        "{}{}",
        String::from_utf8_lossy(&said.stdout),
        String::from_utf8_lossy(&said.stderr)
    );
}

#[test]
fn each_alarm_rings_for_its_reason_and_for_nothing_less() {
    promtool(&["check", "config", "prometheus.yml"]);
    promtool(&["check", "rules", "rules.yml"]);
    promtool(&["test", "rules", "rules.test.yml"]);
    let rules = std::fs::read_to_string(deployed("prometheus/rules.yml")).unwrap();
    let tests = std::fs::read_to_string(deployed("prometheus/rules.test.yml")).unwrap();
    let docs = std::fs::read_to_string(deployed("../docs/metrics.md")).unwrap();
    let alarms: Vec<_> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alarms.len() > 10);
    for alarm in alarms {
        assert!(
            tests.contains(&format!("alertname: {alarm}\n        exp_alerts")),
            "{alarm} is never seen to ring"
        );
        assert!(docs.contains(&format!("\n| {alarm} |")), "{alarm} is not in docs/metrics.md");
    }
}

/// Every query of the dashboard, and those of its variables.
fn queries() -> Vec<String> {
    let text = std::fs::read_to_string(deployed("grafana/pool.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&dashboard["id"], &dashboard["uid"]), (&Value::Null, &Value::from("sd-pool")));
    let panels = dashboard["panels"].as_array().unwrap();
    let mut queries = vec![];
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        assert_ne!(panel["fieldConfig"]["defaults"]["unit"], Value::Null, "{panel} has no unit");
        for target in panel["targets"].as_array().unwrap() {
            assert_eq!(target["datasource"]["uid"], "${datasource}");
            let query = target["expr"].as_str().unwrap();
            queries.push(query.replace("$__rate_interval", RATE).replace("$model", ".*"));
        }
    }
    queries
}

/// What the rules ask for, without their limits: what there must be a series of.
fn metrics_of_rules() -> BTreeSet<String> {
    let rules = std::fs::read_to_string(deployed("prometheus/rules.yml")).unwrap();
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = rules
        .split(|c| !is_of_name(c))
        .filter(|word| word.starts_with("sd_") || word.starts_with("process_"));
    words.map(str::to_owned).collect()
}

async fn ask(prometheus: &str, query: &str) -> Value {
    let url =
        reqwest::Url::parse_with_params(&format!("{prometheus}/api/v1/query"), &[("query", query)]).unwrap();
    let answer: Value = reqwest::get(url).await.expect("an answer").json().await.expect("JSON");
    assert_eq!(answer["status"], "success", "{query}: {answer}");
    answer["data"]["result"].clone()
}

#[tokio::test]
async fn every_query_of_the_dashboard_gives_a_series_of_a_real_pool() {
    let pool = Pool::new().await;
    let model = "m=sim://?step_ms=5&size=64&fail=panic&fail_prompt=bad";
    let (_a, a) = worker(&pool, "a", model, &["--slots", "2"]).await;
    let (_b, b) = worker(&pool, "b", model, &["--slots", "2"]).await;
    let queen = queen(&pool, &["--models", "m"]);
    let folder = TempDir::new().unwrap();
    let targets: Vec<_> =
        [&a, &b, &queen.url].iter().map(|url| url.trim_start_matches("http://").to_owned()).collect();
    let configuration = format!(
        "global: {{scrape_interval: {EVERY}}}\nscrape_configs:\n  - job_name: pool\n    static_configs: [{{targets: {targets:?}}}]\n"
    );
    std::fs::write(folder.path().join("prometheus.yml"), configuration).unwrap();
    let port = free_port();
    let data = folder.path().join("data");
    let arguments = [
        format!("--config.file={}", folder.path().join("prometheus.yml").display()),
        format!("--storage.tsdb.path={}", data.display()),
        format!("--web.listen-address=127.0.0.1:{port}"),
    ];
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let log = folder.path().join("prometheus.log");
    let prometheus = Leashed::start(&program("prometheus", "PROMETHEUS"), &arguments, &log);
    assert!(listens(port, PATIENCE), "{}", prometheus.log());
    let at = format!("http://127.0.0.1:{port}");

    // One fails; of the others there is something between two scrapes for a while. A counter is seen to grow from the second
    // time on that its series is there.
    let failing = queen.submit(&job("m", "a bad one", 2)).await;
    let mut waiting: BTreeSet<String> = queries().into_iter().collect();
    let end = Instant::now() + 2 * PATIENCE;
    while !waiting.is_empty() {
        for steps in 1..4 {
            let id = queen.submit(&job("m", "a", steps)).await;
            queen.stream(&id).await;
        }
        let mut again = BTreeSet::new();
        for query in waiting {
            let series = ask(&at, &query).await;
            // A quotient of nothing is a series, and says nothing.
            let says = series.as_array().unwrap().iter().any(|series| series["value"][1] != "NaN");
            if !says {
                again.insert(query);
            }
        }
        waiting = again;
        assert!(Instant::now() < end, "no series of {waiting:#?}\n{}", prometheus.log());
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    until(&queen.url, "sd_queen_dead_letters", |number| number == 1.0).await;
    queen.delete(&format!("/v1/jobs/{failing}")).await;
    let told: BTreeSet<_> =
        [scrape(&a).await, scrape(&queen.url).await].iter().flat_map(|page| families(page)).collect();
    assert_eq!(metrics_of_rules().difference(&told).collect::<Vec<_>>(), Vec::<&String>::new());
}
