//! What becomes of a job: exit codes, checked pictures, dropped connections, time limits.

use sd_worker_rbee::contract::{ErrorCode, EventKind};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::stand_in::{
    GENERATE, PICTURE, StandIn, Stream, accepted, complete, finish, generate, keeper, progress, right_sha256,
};
use axum::http::StatusCode;

#[tokio::test]
async fn a_finished_job_leaves_a_picture_and_exits_0() {
    let queen =
        StandIn::start([Stream::Events(vec![accepted(), progress(2), complete(1, &right_sha256())])]).await;
    let folder = tempfile::tempdir().unwrap();
    let args = generate(&["--token", "secret", "--steps", "2", "--output", "circle.png"]);
    let (code, stdout, stderr) = finish(queen.keeper(folder.path(), &args)).await;
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(stdout, "circle.png\n");
    assert!(
        stderr.contains("step 2/2 (100 %)") && stderr.contains("warning: the prompt was cut"),
        "{stderr}"
    );
    assert_eq!(std::fs::read(folder.path().join("circle.png")).unwrap(), PICTURE);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    let seen = queen.seen.lock().unwrap();
    assert_eq!(seen.authorization, [Some("Bearer secret".to_owned())]);
    assert_eq!(seen.posted[0]["steps"], 2);
    assert_eq!(seen.posted[0]["output"]["format"], "png");
    assert!(seen.posted[0]["seed"].is_u64(), "a job that is posted again must be the same job");
}

#[tokio::test]
async fn without_output_pictures_are_named_by_the_job() {
    let queen = StandIn::start([Stream::Events(vec![complete(2, &right_sha256())])]).await;
    let folder = tempfile::tempdir().unwrap();
    let (code, stdout, stderr) = finish(queen.keeper(folder.path(), &generate(&["--n", "2"]))).await;
    assert_eq!(code, 0, "{stderr}");
    let job = queen.seen.lock().unwrap().posted[0]["job_id"].as_str().unwrap().to_owned();
    assert_eq!(stdout, format!("{job}-0.png\n{job}-1.png\n"));
    for name in stdout.lines() {
        assert_eq!(std::fs::read(folder.path().join(name)).unwrap(), PICTURE);
    }
}

#[tokio::test]
async fn with_json_standard_output_is_one_line_per_event() {
    let queen =
        StandIn::start([Stream::Events(vec![accepted(), progress(1), complete(1, &right_sha256())])]).await;
    let folder = tempfile::tempdir().unwrap();
    let (code, stdout, stderr) =
        finish(queen.keeper(folder.path(), &generate(&["--json", "-o", "a.png"]))).await;
    assert_eq!((code, stderr.as_str()), (0, ""));
    let lines: Vec<Value> = stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let types: Vec<&str> = lines.iter().map(|line| line["type"].as_str().unwrap()).collect();
    assert_eq!(types, ["accepted", "progress", "complete"]);
    assert_eq!(lines[2]["files"], json!(["a.png"]));
    assert_eq!(lines[2]["image"], Value::Null, "the picture is in the file, not on the terminal");
}

#[tokio::test]
async fn inputs_travel_in_base64() {
    let queen = StandIn::start([Stream::Events(vec![complete(1, &right_sha256())])]).await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("in.png"), b"in").unwrap();
    std::fs::write(folder.path().join("mask.png"), b"mask").unwrap();
    let args =
        ["image", "inpaint", "--prompt", "a", "--input", "in.png", "--mask", "mask.png", "--strength", "0.5"];
    let args = [&args[..], &["--guidance-interval", "0.1,0.8", "--mask-blur", "4"]].concat();
    let part = ["--padding-mask-crop", "32", "--width", "512", "--height", "256"];
    let args = [&args[..], &part].concat();
    let (code, _, stderr) = finish(queen.keeper(folder.path(), &args)).await;
    assert_eq!(code, 0, "{stderr}");
    let posted = queen.seen.lock().unwrap().posted[0].clone();
    assert_eq!(posted["init_image"], "aW4=");
    assert_eq!(posted["mask_image"], "bWFzaw==");
    assert_eq!(posted["strength"], 0.5);
    assert_eq!(posted["guidance_interval"], json!([0.1, 0.8]));
    assert!(posted.get("mask_points").is_none(), "{posted}");
    let masking = ["mask_blur", "padding_mask_crop", "width", "height"].map(|field| posted[field].clone());
    assert_eq!(masking, [4, 32, 512, 256].map(|value| json!(value)));
}

#[tokio::test]
async fn what_is_repainted_is_pointed_at_in_place_of_a_mask() {
    let queen = StandIn::start([Stream::Events(vec![complete(1, &right_sha256())])]).await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("in.png"), b"in").unwrap();
    let inpaint = ["image", "inpaint", "--prompt", "a", "--input", "in.png"];
    let pointed =
        ["--mask-beside", "9,9", "--mask-point", "1,2", "--mask-point", "3, 4", "--mask-box", "0,0,5,6"];
    let (code, _, stderr) = finish(queen.keeper(folder.path(), &[&inpaint[..], &pointed].concat())).await;
    assert_eq!(code, 0, "{stderr}");
    let posted = queen.seen.lock().unwrap().posted[0].clone();
    assert_eq!(posted["mask_points"], json!([[1, 2], [3, 4], [9, 9]]));
    assert_eq!((&posted["mask_labels"], &posted["mask_box"]), (&json!([1, 1, 0]), &json!([0, 0, 5, 6])));
    assert!(posted.get("mask_image").is_none(), "{posted}");
    for (args, said) in [
        (&[][..], "--mask <FILE>"),
        (&["--mask", "in.png", "--mask-point", "1,2"], "cannot be used with"),
        (&["--mask-beside", "1,2"], "--mask <FILE>"),
        (&["--mask-point", "1"], "2 whole numbers of pixels"),
        (&["--mask-box", "1,2,3,-4"], "4 whole numbers of pixels"),
        (&["--mask-box", "5,0,5,9"], "`mask_box`: [5, 0, 5, 9] is empty"),
    ] {
        let (code, _, stderr) = finish(queen.keeper(folder.path(), &[&inpaint[..], args].concat())).await;
        assert_eq!(code, 2, "{args:?}: {stderr}");
        assert!(stderr.contains(said), "{args:?}: {stderr}");
    }
    assert_eq!(queen.seen.lock().unwrap().posted.len(), 1);
}

#[tokio::test]
async fn what_is_wrong_before_sending_exits_2_and_sends_nothing() {
    let queen = StandIn::start([]).await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("big.png"), [1; 2048]).unwrap();
    let transform = ["image", "transform", "--prompt", "a", "--input"];
    for (args, said) in [
        (generate(&["--output", "missing/a.png"]), "there is no folder missing"),
        (generate(&["--output", "a.gif"]), ".gif"),
        (generate(&["--guidance-scale", "NaN"]), "finite"),
        (generate(&["--guidance-interval", "0.8,0.1"]), "from < to"),
        (generate(&["--queen", "ftp://x"]), "scheme"),
        (generate(&["--width", "100"]), "a multiple of 8"),
        (vec!["image", "generate", "--prompt", ""], "`prompt`: 0 characters"),
        (vec!["image", "generate"], "--prompt"),
        ([&transform[..], &["none.png"]].concat(), "cannot read none.png"),
        ([&transform[..], &["big.png", "--max-input", "1KiB"]].concat(), "at most 1024"),
    ] {
        let (code, stdout, stderr) = finish(queen.keeper(folder.path(), &args)).await;
        assert_eq!((code, stdout.as_str()), (2, ""), "{args:?}: {stderr}");
        assert!(stderr.contains(said), "{args:?}: {stderr}");
    }
    assert!(queen.seen.lock().unwrap().posted.is_empty());
}

#[tokio::test]
async fn a_failed_job_exits_1_and_says_why() {
    let failure = EventKind::error(ErrorCode::Storage, "jobs/j/0.png: connection refused");
    let queen = StandIn::start([Stream::Events(vec![accepted(), failure])]).await;
    let folder = tempfile::tempdir().unwrap();
    let (code, _, stderr) = finish(queen.keeper(folder.path(), &GENERATE)).await;
    assert_eq!(code, 1);
    assert!(stderr.contains("the job failed (storage): jobs/j/0.png: connection refused"), "{stderr}");
}

#[tokio::test]
async fn a_refusal_of_queen_exits_1() {
    let queen = StandIn::start_with(Some((StatusCode::BAD_REQUEST, "`steps`: 0 is out of bounds")), []).await;
    let folder = tempfile::tempdir().unwrap();
    let (code, _, stderr) = finish(queen.keeper(folder.path(), &GENERATE)).await;
    assert_eq!(code, 1);
    assert!(stderr.contains("`steps`: 0 is out of bounds"), "{stderr}");
}

#[tokio::test]
async fn no_queen_exits_3() {
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let folder = tempfile::tempdir().unwrap();
    let (code, _, stderr) =
        finish(keeper(&format!("http://127.0.0.1:{port}"), folder.path(), &GENERATE)).await;
    assert_eq!(code, 3);
    assert!(stderr.contains("cannot reach queen") && stderr.contains("refused"), "{stderr}");
}

#[tokio::test]
async fn no_worker_exits_4() {
    let busy = Stream::Events(vec![EventKind::error(ErrorCode::Busy, "every worker is busy")]);
    for queen in [
        StandIn::start_with(Some((StatusCode::SERVICE_UNAVAILABLE, "every worker is busy")), []).await,
        StandIn::start([busy]).await,
    ] {
        let folder = tempfile::tempdir().unwrap();
        let (code, _, stderr) = finish(queen.keeper(folder.path(), &GENERATE)).await;
        assert_eq!(code, 4);
        assert!(stderr.contains("every worker is busy"), "{stderr}");
    }
}

#[tokio::test]
async fn a_picture_that_is_not_the_one_that_was_stored_is_not_written() {
    let wrong = right_sha256().replace(|c: char| c.is_ascii_digit(), "a");
    let queen = StandIn::start([Stream::Events(vec![complete(1, &wrong)])]).await;
    let folder = tempfile::tempdir().unwrap();
    let (code, stdout, stderr) = finish(queen.keeper(folder.path(), &GENERATE)).await;
    assert_eq!((code, stdout.as_str()), (1, ""));
    assert!(stderr.contains("sha256"), "{stderr}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_dropped_connection_goes_on_behind_the_last_event() {
    let queen = StandIn::start([
        Stream::Broken(vec![accepted(), progress(1)]),
        Stream::Events(vec![]),
        Stream::Events(vec![progress(2), complete(1, &right_sha256())]),
    ])
    .await;
    let folder = tempfile::tempdir().unwrap();
    let (code, stdout, stderr) = finish(queen.keeper(folder.path(), &generate(&["--json"]))).await;
    assert_eq!(code, 0, "{stderr}");
    let seqs: Vec<u64> = stdout
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["seq"].as_u64().unwrap())
        .collect();
    assert_eq!(seqs, [0, 1, 2, 3]);
    assert_eq!(queen.seen.lock().unwrap().after, [None, Some("1".into()), Some("1".into())]);
}

#[tokio::test]
async fn a_timeout_cancels_the_job_and_exits_1() {
    let queen = StandIn::start([Stream::Hang(vec![accepted()])]).await;
    let folder = tempfile::tempdir().unwrap();
    let (code, _, stderr) = finish(queen.keeper(folder.path(), &generate(&["--timeout", "300ms"]))).await;
    assert_eq!(code, 1, "{stderr}");
    let seen = queen.seen.lock().unwrap();
    assert_eq!(seen.deleted, [seen.posted[0]["job_id"].as_str().unwrap()]);
}
