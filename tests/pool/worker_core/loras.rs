//! LoRAs that jobs name, in a real worker with a folder of them.

use std::{
    fs::File,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use async_nats::{HeaderMap, jetstream};
use sd_worker_rbee::contract::{Capability, ErrorCode, EventKind, JobId, headers};

use crate::support::worker::{Pool, WorkerProcess, next_event};

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/parity").join(name)
}

async fn worker(pool: &Pool) -> WorkerProcess {
    let (model, loras) = (data("text"), data("loras"));
    let model = format!("text={}", model.to_str().unwrap());
    pool.worker("a", &model, &["--lora-dir", loras.to_str().unwrap()]).await
}

fn body(loras: &str) -> String {
    format!(r#"{{"prompt":"a red circle","steps":2,"seed":1,"width":64,"height":64,"loras":{loras}}}"#)
}

#[tokio::test]
async fn a_job_names_its_loras_and_the_next_has_none_of_them() {
    let pool = Pool::new().await;
    let _worker = worker(&pool).await;
    let mut pictures = Vec::new();
    for loras in ["[]", r#"[{"path":"text/kohya"},{"path":"text/peft.safetensors","strength":-0.5}]"#, "[]"] {
        let complete = pool.insist(&body(loras)).await.done();
        let file = std::fs::read(pool.store.path().join(&complete.images[0].key)).unwrap();
        let text =
            String::from_utf8_lossy(&file).contains("<lora:text/kohya:1> <lora:text/peft.safetensors:-0.5>");
        assert_eq!(text, loras != "[]");
        pictures.push(image::load_from_memory(&file).unwrap().to_rgb8());
    }
    assert_ne!(pictures[0], pictures[1]);
    assert_eq!(pictures[0], pictures[2]);
}

#[tokio::test]
async fn a_lora_that_cannot_be_used_costs_its_sender_an_error() {
    let pool = Pool::new().await;
    let _worker = worker(&pool).await;
    for (loras, parts) in [
        (r#"[{"path":"text/kohya"},{"path":"oil"}]"#, ["`loras[1].path`", "`oil.safetensors`"]),
        (r#"[{"path":"xl/peft"}]"#, ["`loras[0].path`: xl/peft", "a layer of this model"]),
    ] {
        let (code, message) = pool.insist(&body(loras)).await.failed();
        assert_eq!(code, ErrorCode::InvalidRequest, "{message}");
        for part in parts {
            assert!(message.contains(part), "{part} is not in: {message}");
        }
    }
    pool.insist(&body("[]")).await.done();
}

#[tokio::test]
async fn a_prompt_names_words_of_files_and_a_file_for_another_model_costs_its_sender_an_error() {
    let pool = Pool::new().await;
    let folder = tempfile::tempdir().unwrap();
    for (from, to) in [("ink", "ink"), ("xl/ink", "other")] {
        let to = folder.path().join(format!("{to}.safetensors"));
        std::fs::copy(data(&format!("embeddings/{from}.safetensors")), to).unwrap();
    }
    let model = format!("text={}", data("text").to_str().unwrap());
    let _worker = pool.worker("a", &model, &["--embedding-dir", folder.path().to_str().unwrap()]).await;
    let body = |prompt: &str| {
        format!(
            r#"{{"prompt":"{prompt}","prompt_syntax":"a1111","steps":2,"seed":1,"width":64,"height":64}}"#
        )
    };
    let mut pictures = Vec::new();
    for (prompt, warned) in
        [("a INK circle", false), ("a embedding:ink circle", false), ("a embedding:gone circle", true)]
    {
        let complete = pool.insist(&body(prompt)).await.done();
        assert_eq!(complete.warnings.iter().any(|said| said.contains("embedding:gone")), warned, "{prompt}");
        let file = std::fs::read(pool.store.path().join(&complete.images[0].key)).unwrap();
        pictures.push(image::load_from_memory(&file).unwrap().to_rgb8());
    }
    assert_eq!(pictures[0], pictures[1]);
    assert_ne!(pictures[0], pictures[2]);
    let (code, message) = pool.insist(&body("a other circle")).await.failed();
    assert_eq!(code, ErrorCode::InvalidRequest, "{message}");
    assert!(message.starts_with("`prompt`: embedding other: "), "{message}");
}

/// A safetensors file of tensors of zeros: name, type, bytes of a value, shape.
fn safetensors(tensors: &[(&str, &str, usize, &[usize])]) -> Vec<u8> {
    let (mut header, mut end) = (serde_json::Map::new(), 0);
    for (name, dtype, bytes, shape) in tensors {
        let start = end;
        end += bytes * shape.iter().product::<usize>();
        let info = serde_json::json!({ "dtype": dtype, "shape": shape, "data_offsets": [start, end] });
        header.insert((*name).to_owned(), info);
    }
    let header = serde_json::Value::from(header).to_string();
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &vec![0; end]].concat()
}

/// A safetensors file in which the last value of the last tensor is NaN.
fn with_a_nan(file: &Path) -> Vec<u8> {
    let mut bytes = std::fs::read(file).unwrap();
    let last = bytes.len() - 2;
    bytes[last..].copy_from_slice(&[0xff, 0xff]);
    bytes
}

#[tokio::test]
async fn a_durable_job_with_a_file_that_is_no_lora_fails_once_and_is_told_what_the_file_is() {
    const DOWN: &str = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight";
    const UP: &str = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.lora_B.weight";
    const ALPHA: &str = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.alpha";
    let pool = Pool::new().await;
    let folder = tempfile::tempdir().unwrap();
    let whole = std::fs::read(data("loras/text/old.safetensors")).unwrap();
    let fp8 = [(DOWN, "F8_E4M3", 1, &[1, 32][..]), (UP, "F8_E4M3", 1, &[32, 1])];
    let integer = [(DOWN, "F16", 2, &[1, 32][..]), (UP, "F16", 2, &[32, 1]), (ALPHA, "I64", 8, &[])];
    let cases: [(&str, Vec<u8>, &str); 11] = [
        ("lfs", b"version https://git-lfs.github.com/spec/v1\nsize 7\n".to_vec(), "Git LFS pointer"),
        ("html", b"<!DOCTYPE html><html>Sign in</html>".to_vec(), "a web page"),
        ("empty", vec![], "it is empty"),
        ("cut", whole[..whole.len() - 1].to_vec(), "it was cut short"),
        ("gguf", b"GGUF\x03\0\0\0\0\0\0\0".to_vec(), "a GGUF file"),
        ("pickle", b"\x80\x02}q\0.".to_vec(), "pickled"),
        ("zip", b"PK\x03\x04 lora/data.pkl".to_vec(), "pickled"),
        ("fp8", safetensors(&fp8), "found F8_E4M3"),
        ("alpha", safetensors(&integer), "found I64"),
        ("vae", safetensors(&[("decoder.conv_in.weight", "F32", 4, &[1])]), "an autoencoder"),
        ("nan", with_a_nan(&data("loras/text/old.safetensors")), "finite numbers, found NaN"),
    ];
    for (name, bytes, _) in &cases {
        let file = folder.path().join(format!("{name}.safetensors"));
        std::fs::write(&file, bytes).unwrap();
        // A part of a file that was written just now may become a whole one.
        let long_ago = SystemTime::now() - Duration::from_secs(60);
        File::options().write(true).open(&file).unwrap().set_modified(long_ago).unwrap();
    }
    let model = format!("text={}", data("text").to_str().unwrap());
    let _worker = pool.worker("a", &model, &["--lora-dir", folder.path().to_str().unwrap()]).await;
    let context = jetstream::new(pool.client.clone());
    for (name, _, expected) in &cases {
        let id = JobId::new(*name).unwrap();
        let mut events = pool.events(name).await;
        let mut map = HeaderMap::new();
        map.insert(headers::MESSAGE_ID, *name);
        map.insert(headers::JOB_ID, *name);
        let subject = pool.subjects.jobs(Capability::Generate, "text", &id);
        let body = body(&format!(r#"[{{"path":"{name}"}}]"#)).into();
        context.publish_with_headers(subject, map, body).await.unwrap().await.unwrap();
        let accepted = next_event(&mut events).await;
        assert_eq!(accepted.kind.name(), "accepted", "{name}");
        let end = next_event(&mut events).await;
        let EventKind::Error { code, message, retryable } = end.kind else { panic!("{name}: {end:?}") };
        assert_eq!((code, retryable), (ErrorCode::InvalidRequest, false), "{name}: {message}");
        assert!(message.starts_with(&format!("`loras[0].path`: {name}: ")), "{message}");
        assert!(message.contains(expected), "{expected} is not in: {message}");
        assert!(!message.contains(folder.path().to_str().unwrap()), "{message}");
    }
    // Nothing is tried again, and nothing is left for somebody to look at.
    pool.insist(&body("[]")).await.done();
    for stream in ["JOBS", "DLQ"] {
        let stream = context.get_stream(pool.subjects.stream(stream)).await.unwrap();
        assert_eq!(stream.cached_info().state.messages, 0);
    }
}

#[tokio::test]
async fn a_simulation_takes_no_loras() {
    let pool = Pool::new().await;
    let loras = data("loras");
    let _worker =
        pool.worker("a", "sim://?step_ms=1&size=64", &["--lora-dir", loras.to_str().unwrap()]).await;
    let (code, message) = pool.insist(&body(r#"[{"path":"text/kohya"}]"#)).await.failed();
    assert_eq!(code, ErrorCode::InvalidRequest, "{message}");
    assert!(message.contains("`loras`"), "{message}");
}
