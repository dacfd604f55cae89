//! LoRAs that jobs name, in a real worker with a folder of them.

use std::path::{Path, PathBuf};

use sd_worker_rbee::contract::ErrorCode;

use crate::support::worker::{Pool, WorkerProcess};

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
async fn a_simulation_takes_no_loras() {
    let pool = Pool::new().await;
    let loras = data("loras");
    let _worker =
        pool.worker("a", "sim://?step_ms=1&size=64", &["--lora-dir", loras.to_str().unwrap()]).await;
    let (code, message) = pool.insist(&body(r#"[{"path":"text/kohya"}]"#)).await.failed();
    assert_eq!(code, ErrorCode::InvalidRequest, "{message}");
    assert!(message.contains("`loras`"), "{message}");
}
