//! What is typed, and what is sent.

use serde_json::json;

use crate::stand_in::{StandIn, Stream, accepted, complete, finish, generate, keeper, right_sha256};

async fn queen() -> StandIn {
    StandIn::start([Stream::Events(vec![accepted(), complete(1, &right_sha256())])]).await
}

#[tokio::test]
async fn text_that_begins_with_a_dash_is_sent_as_text() {
    let folder = tempfile::tempdir().unwrap();
    for args in [
        &["--prompt", "-foo", "--negative-prompt", "--bar, baz"][..],
        &["--prompt=-foo", "--negative-prompt=--bar, baz"],
        &["--negative", "--bar, baz", "--prompt", "-foo"],
    ] {
        let queen = queen().await;
        let args = [&["image", "generate"], args].concat();
        let (code, _, stderr) = finish(queen.keeper(folder.path(), &args)).await;
        assert_eq!(code, 0, "{args:?}: {stderr}");
        let posted = queen.seen.lock().unwrap().posted[0].clone();
        assert_eq!((&posted["prompt"], &posted["negative_prompt"]), (&json!("-foo"), &json!("--bar, baz")));
    }
    let queen = queen().await;
    let mistake = ["image", "generate", "--prompt", "--negative", "x"];
    let (code, _, stderr) = finish(queen.keeper(folder.path(), &mistake)).await;
    assert_eq!(code, 2);
    assert!(stderr.contains("--prompt needs a text, and `--negative` is a flag"), "{stderr}");
    assert!(queen.seen.lock().unwrap().posted.is_empty());
}

#[tokio::test]
async fn every_flag_of_a_job_is_sent() {
    let folder = tempfile::tempdir().unwrap();
    let queen = queen().await;
    let args = generate(&[
        "--negative-prompt",
        "fog",
        "--prompt-syntax",
        "a1111",
        "--clip-skip",
        "2",
        "--model",
        "tiny",
        "--lora",
        "ink",
        "--lora",
        "oil=0.5",
        "--steps",
        "4",
        "--scheduler",
        "ddim",
        "--scheduler-option",
        "timestep_spacing=trailing",
        "--scheduler-option",
        "original_inference_steps=25",
        "--guidance-scale",
        "6",
        "--guidance-interval",
        "0.1,0.8",
        "--guidance-rescale",
        "0.7",
        "--seed",
        "9",
        "--n",
        "1",
        "--format",
        "jpeg",
        "--quality",
        "80",
        "--preview-every",
        "2",
        "--job-id",
        "my-job",
        "--worker-id",
        "w1",
        "--hive-id",
        "h",
        "--deadline",
        "10m",
        "--webhook-url",
        "https://me.example/",
        "--webhook-events",
        "complete,error",
        "--width",
        "64",
        "--height",
        "128",
        "-o",
        "a.jpg",
    ]);
    let (code, _, stderr) = finish(queen.keeper(folder.path(), &args)).await;
    assert_eq!(code, 0, "{stderr}");
    let expected = json!({"operation": "image_generation", "prompt": "a red circle", "negative_prompt": "fog",
        "prompt_syntax": "a1111", "clip_skip": 2, "model": "tiny",
        "loras": [{"path": "ink"}, {"path": "oil", "strength": 0.5}], "steps": 4, "scheduler": "ddim",
        "scheduler_options": {"timestep_spacing": "trailing", "original_inference_steps": 25},
        "guidance_scale": 6.0, "guidance_interval": [0.1, 0.8], "guidance_rescale": 0.7, "seed": 9, "n": 1,
        "output": {"format": "jpeg", "quality": 80}, "preview_every": 2, "job_id": "my-job", "worker_id": "w1",
        "hive_id": "h", "deadline_ms": 600_000, "webhook_url": "https://me.example/",
        "webhook_events": ["complete", "error"], "width": 64, "height": 128});
    assert_eq!(queen.seen.lock().unwrap().posted[0], expected);
}

#[tokio::test]
async fn any_seed_is_drawn_and_the_same_job_is_sent_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut seeds = vec![];
    for _ in 0..2 {
        let queen = queen().await;
        let args = generate(&["--seed", "-1", "--job-id", "mine"]);
        let (code, _, stderr) = finish(queen.keeper(folder.path(), &args)).await;
        assert_eq!(code, 0, "{stderr}");
        seeds.push(queen.seen.lock().unwrap().posted[0]["seed"].as_u64().unwrap());
    }
    assert_eq!(seeds[0], seeds[1], "the seed comes from the name of the job");
}

#[tokio::test]
async fn an_empty_token_is_none() {
    let folder = tempfile::tempdir().unwrap();
    for token in ["", " \n"] {
        let queen = queen().await;
        let mut command = queen.keeper(folder.path(), &generate(&[]));
        command.env("RBEE_TOKEN", token);
        let (code, _, stderr) = finish(command).await;
        assert_eq!(code, 0, "{stderr}");
        assert_eq!(queen.seen.lock().unwrap().authorization, [None]);
    }
    let (code, _, stderr) =
        finish(keeper("http://127.0.0.1:1", folder.path(), &generate(&["--token", "hunter\u{1}2"]))).await;
    assert_eq!(code, 2);
    assert!(stderr.contains("--token") && !stderr.contains("hunter"), "{stderr}");
}

#[tokio::test]
async fn standard_input_may_be_the_picture_to_start_from() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("in.png"), b"in").unwrap();
    let queen = queen().await;
    let args = ["image", "transform", "--prompt", "a", "--input", "-"];
    let mut command = queen.keeper(folder.path(), &args);
    command.stdin(std::fs::File::open(folder.path().join("in.png")).unwrap());
    let (code, _, stderr) = finish(command).await;
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(queen.seen.lock().unwrap().posted[0]["init_image"], "aW4=");
}
