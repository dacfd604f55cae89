//! What is in `schemas/` is what the types and the tables say (`UPDATE_SCHEMAS=1 cargo test --test schemas` writes it), and
//! real messages are judged by a JSON Schema validator that is not ours.

use std::{collections::BTreeSet, path::Path};

use jsonschema::Validator;
use sd_worker_rbee::{
    contract::{
        Capability, Command, CompleteEvent, DeadLetter, DeadLetters, ErrorBody, ErrorCode, ErrorDetail,
        Event, EventKind, Health, HttpCode, ImageResult, JobId, JobList, JobResponse, JobStatus, JobSummary,
        JobView, Operation, OutputFormat, Queued, Timings, WebhookBody, WireCode, WorkerId, WorkerInfo,
        WorkerLimits, WorkerLoras, WorkerStatus, Workers, asyncapi, schema,
    },
    queen::openapi,
};
use serde_json::{Value, json};

fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/schemas"))
}

/// The committed schema, not the one in memory: it is what others read.
fn validator(name: &str) -> Validator {
    let text = std::fs::read_to_string(folder().join(name)).unwrap();
    jsonschema::draft202012::new(&serde_json::from_str(&text).unwrap()).unwrap()
}

fn worker() -> WorkerInfo {
    WorkerInfo {
        id: WorkerId::new("w1").unwrap(),
        hive_id: None,
        model_id: "tiny".into(),
        models: vec!["tiny".into()],
        device: "cpu".into(),
        status: WorkerStatus::Ready,
        capabilities: Capability::ALL.to_vec(),
        slots: 2,
        free_slots: 1,
        implementation: "sd-worker-rbee".into(),
        version: "0.1.0".into(),
        limits: Some(WorkerLimits {
            max_pixels: 1 << 22,
            max_steps: 150,
            max_images: 8,
            max_input: 16 << 20,
        }),
        loras: Some(WorkerLoras { names: vec!["styles/ink".into()], complete: true }),
        segmenter: true,
        schedulers: vec!["euler".into()],
        native_sizes: [("tiny".to_owned(), (64, 64))].into(),
        licenses: [("tiny".to_owned(), "mit".to_owned())].into(),
        titles: [("tiny".to_owned(), "Tiny Shapes".to_owned())].into(),
        resolutions: [("tiny".to_owned(), "64x64".to_owned())].into(),
        resident: vec!["tiny".into()],
        jobs_done: 3,
        step_ms: Some(12.5),
    }
}

fn event(kind: EventKind) -> Event {
    Event { job_id: JobId::generate(), worker_id: WorkerId::new("w1").unwrap(), attempt: 1, seq: 3, kind }
}

fn events() -> Vec<Event> {
    let image = ImageResult {
        key: "jobs/j/0.png".into(),
        url: "file:///store/jobs/j/0.png".into(),
        format: OutputFormat::Png,
        width: 64,
        height: 64,
        bytes: 100,
        sha256: "0".repeat(64),
        seed: u64::MAX,
    };
    [
        EventKind::Accepted { model: "tiny".into(), seed: u64::MAX, position: 0 },
        EventKind::Progress { step: 1, total: 2, percent: 50.0, eta_ms: 9 },
        EventKind::Preview {
            step: 1,
            total: 2,
            percent: 50.0,
            image: "AA==".into(),
            format: OutputFormat::Jpeg,
        },
        EventKind::Complete(CompleteEvent {
            model: "tiny".into(),
            images: vec![image],
            timings_ms: Timings::default(),
            mask: None,
            warnings: vec![],
        }),
        EventKind::error(ErrorCode::Busy, "no free slot"),
        EventKind::Cancelled { step: 1 },
    ]
    .map(event)
    .to_vec()
}

/// Every file, and its text.
fn files() -> Vec<(String, String)> {
    let of_types =
        schema::all().into_iter().map(|(name, schema)| (name.to_owned(), schema::to_text(&schema)));
    let openapi = serde_json::to_string_pretty(&openapi()).unwrap() + "\n";
    let asyncapi = serde_saphyr::to_string(&asyncapi()).unwrap();
    let documents = [("openapi.json".to_owned(), openapi), ("asyncapi.yaml".to_owned(), asyncapi)];
    of_types.chain(documents).collect()
}

#[test]
fn the_files_are_what_the_types_say() {
    let expected = files();
    let names: BTreeSet<String> = expected.iter().map(|(name, _)| name.clone()).collect();
    assert_eq!(names.len(), expected.len(), "two files of one name");
    if std::env::var_os("UPDATE_SCHEMAS").is_some() {
        std::fs::create_dir_all(folder()).unwrap();
        for (name, text) in &expected {
            std::fs::write(folder().join(name), text).unwrap();
        }
    }
    for (name, expected) in &expected {
        let text = std::fs::read_to_string(folder().join(name)).unwrap_or_default();
        assert!(text == *expected, "schemas/{name} is stale: UPDATE_SCHEMAS=1 cargo test --test schemas");
    }
    let there: BTreeSet<String> = std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(there, names, "a file that no type stands for");
}

#[test]
fn every_schema_says_which_draft_it_is() {
    for (name, schema) in schema::all() {
        let value = serde_json::to_value(schema).unwrap();
        assert_eq!(value["$schema"], "https://json-schema.org/draft/2020-12/schema", "{name}");
        assert!(jsonschema::meta::is_valid(&value), "{name}");
    }
}

#[test]
fn what_a_client_may_send_is_valid() {
    let validator = validator("operation.json");
    for message in [
        json!({"operation": "image_generation", "prompt": "a"}),
        json!({"operation": "image_generation", "prompt": "a", "width": 64, "height": 2048, "seed": u64::MAX,
            "negative_prompt": "", "steps": 150, "guidance_scale": 0, "guidance_interval": [0, 0.5],
            "guidance_rescale": 0.7, "n": 8, "scheduler": "euler",
            "output": {"format": "jpeg", "quality": 1}, "loras": [{"path": "x", "strength": 0.5}],
            "preview_every": 0, "stream": false, "deadline_ms": 1, "job_id": "j_1", "hive_id": "localhost",
            "worker_id": "w", "model": "tiny", "clip_skip": 11, "prompt_syntax": "a1111",
            "webhook_url": "https://x", "webhook_events": ["complete"]}),
        json!({"operation": "image_generation", "prompt": "a", "negative_prompt": null, "seed": null}),
        json!({"operation": "image_generation", "prompt": "a", "loras": null, "output": null, "seed": -1, "steps": 20.0}),
        json!({"operation": "image_generation", "prompt": "a", "output": {"format": null, "quality": null}}),
        json!({"operation": "image_generation", "prompt": "a", "loras": [{"path": "x", "strength": null}]}),
        json!({"operation": "image_generation", "prompt": "a", "model": "", "scheduler": "", "worker_id": "",
            "hive_id": "", "job_id": "", "negative_prompt": "", "webhook_url": ""}),
        json!({"operation": "image_transform", "prompt": "a", "init_image": "AA==", "strength": 1}),
        json!({"operation": "image_transform", "prompt": "a", "input_image": "AA=="}),
        json!({"operation": "image_inpaint", "prompt": "a", "init_image": "object:inputs/x", "mask_image": "AA=="}),
        json!({"operation": "image_inpaint", "prompt": "a", "init_image": "AA==", "mask_points": [[1, 2], [3, 4]],
            "mask_labels": [1, 0], "mask_box": [0, 0, 9, 9]}),
        json!({"operation": "image_inpaint", "prompt": "a", "input_image": "AA==", "mask_box": [0, 0, 9, 9], "mask_image": null}),
    ] {
        assert!(validator.is_valid(&message), "{message}: {:?}", validator.validate(&message));
        let operation = Operation::parse(None, message.to_string().as_bytes()).unwrap();
        let written: Value = serde_json::from_slice(&operation.to_json()).unwrap();
        assert!(validator.is_valid(&written), "written back: {written}");
    }
}

#[test]
fn what_the_contract_refuses_is_not_valid() {
    let validator = validator("operation.json");
    for message in [
        json!({}),
        json!([]),
        json!({"prompt": "a"}),
        json!({"operation": "image_upscale", "prompt": "a"}),
        json!({"operation": "image_generation"}),
        json!({"operation": "image_generation", "prompt": ""}),
        json!({"operation": "image_generation", "prompt": 3}),
        json!({"operation": "image_generation", "prompt": "a", "guidence_scale": 3}),
        json!({"operation": "image_generation", "prompt": "a", "init_image": "AA=="}),
        json!({"operation": "image_generation", "prompt": "a", "steps": 0}),
        json!({"operation": "image_generation", "prompt": "a", "steps": 1_000_000_000}),
        json!({"operation": "image_generation", "prompt": "a", "steps": 1.5}),
        json!({"operation": "image_generation", "prompt": "a", "width": 63}),
        json!({"operation": "image_generation", "prompt": "a", "width": 68}),
        json!({"operation": "image_generation", "prompt": "a", "width": 100_001}),
        json!({"operation": "image_generation", "prompt": "a", "guidance_scale": -1}),
        json!({"operation": "image_generation", "prompt": "a", "guidance_interval": [0.5]}),
        json!({"operation": "image_generation", "prompt": "a", "guidance_interval": [0, 0.5, 1]}),
        json!({"operation": "image_generation", "prompt": "a", "guidance_interval": [0, 1.5]}),
        json!({"operation": "image_generation", "prompt": "a", "guidance_rescale": 1.5}),
        json!({"operation": "image_generation", "prompt": "a", "seed": -2}),
        json!({"operation": "image_generation", "prompt": "a", "seed": 0.5}),
        json!({"operation": "image_generation", "prompt": "a", "nosuch": null}),
        json!({"operation": "image_generation", "prompt": null}),
        json!({"operation": "image_generation", "prompt": "a", "n": 9}),
        json!({"operation": "image_generation", "prompt": "a", "deadline_ms": 0}),
        json!({"operation": "image_generation", "prompt": "a", "output": {"format": "gif"}}),
        json!({"operation": "image_generation", "prompt": "a", "output": {"size": 3}}),
        json!({"operation": "image_generation", "prompt": "a", "loras": [{}]}),
        json!({"operation": "image_transform", "prompt": "a"}),
        json!({"operation": "image_transform", "prompt": "a", "init_image": "AA==", "input_image": "AA=="}),
        json!({"operation": "image_transform", "prompt": "a", "init_image": "AA==", "strength": 0}),
        json!({"operation": "image_transform", "prompt": "a", "init_image": "AA==", "strength": 2}),
        json!({"operation": "image_transform", "prompt": "a", "init_image": "AA==", "width": 64}),
        json!({"operation": "image_inpaint", "prompt": "a", "init_image": "AA=="}),
        json!({"operation": "image_inpaint", "prompt": "a", "init_image": "AA==", "mask_image": "AA==", "mask_blur": 65}),
        json!({"operation": "image_inpaint", "prompt": "a", "init_image": "AA==", "mask_image": "AA==", "padding_mask_crop": -1}),
        json!({"operation": "image_inpaint", "prompt": "a", "init_image": "AA==", "mask_image": "AA==", "mask_points": [[1, 2]]}),
        json!({"operation": "image_inpaint", "prompt": "a", "init_image": "AA==", "mask_image": null}),
        json!({"operation": "image_inpaint", "prompt": "a", "init_image": "AA==", "mask_labels": [1]}),
        json!({"operation": "image_inpaint", "prompt": "a", "init_image": "AA==", "mask_points": []}),
        json!({"operation": "image_inpaint", "prompt": "a", "init_image": "AA==", "mask_points": [[1, 2, 3]]}),
        json!({"operation": "image_inpaint", "prompt": "a", "init_image": "AA==", "mask_box": [0, 0, -1, 9]}),
        json!({"operation": "image_transform", "prompt": "a", "init_image": "AA==", "mask_blur": 4}),
    ] {
        assert!(!validator.is_valid(&message), "{message}");
    }
}

#[test]
fn every_event_is_valid_and_a_damaged_one_is_not() {
    let validator = validator("event.json");
    for event in events() {
        let value = serde_json::to_value(&event).unwrap();
        assert!(validator.is_valid(&value), "{value}: {:?}", validator.validate(&value));
        for field in value.as_object().unwrap().keys() {
            let mut damaged = value.clone();
            damaged.as_object_mut().unwrap().remove(field);
            assert!(!validator.is_valid(&damaged), "{} without {field}", event.kind.name());
        }
        let mut damaged = value.clone();
        damaged["type"] = json!("finished");
        assert!(!validator.is_valid(&damaged));
        damaged = value;
        damaged["job_id"] = json!("a/b");
        assert!(!validator.is_valid(&damaged));
    }
}

#[test]
fn every_optional_field_may_be_null() {
    let text = std::fs::read_to_string(folder().join("operation.json")).unwrap();
    let schema: Value = serde_json::from_str(&text).unwrap();
    let validator = validator("operation.json");
    for (operation, required) in [
        ("image_generation", json!({})),
        ("image_transform", json!({"init_image": "AAAA"})),
        ("image_inpaint", json!({"init_image": "AAAA", "mask_image": "AAAA"})),
    ] {
        let variant = schema["oneOf"]
            .as_array()
            .unwrap()
            .iter()
            .find(|variant| variant["properties"]["operation"]["const"] == operation);
        let fields = variant.unwrap()["properties"].as_object().unwrap().keys();
        let mut body = json!({"operation": operation, "prompt": "a"});
        for (field, value) in required.as_object().unwrap() {
            body[field] = value.clone();
        }
        let bare = Operation::parse(None, body.to_string().as_bytes()).unwrap();
        for field in fields.filter(|field| *field != "input_image") {
            if body.get(field).is_none() {
                body[field] = Value::Null;
            }
        }
        assert!(body.as_object().unwrap().len() > 18, "{body}");
        assert!(validator.is_valid(&body), "{body}: {:?}", validator.validate(&body));
        assert_eq!(Operation::parse(None, body.to_string().as_bytes()).unwrap(), bare);
    }
}

#[test]
fn answers_and_heartbeats_are_valid() {
    let job = JobId::generate();
    let view = JobView { job_id: job.clone(), status: JobStatus::Running, event: events().pop() };
    let health = Health { status: "ok".into(), nats: "connected".into(), durable: false, workers: 1 };
    let error = |code| ErrorBody { error: ErrorDetail { code, message: "no".into(), retryable: false } };
    let letter = DeadLetter {
        job_id: job.clone(),
        capability: Capability::Inpaint,
        model: "tiny".into(),
        code: ErrorCode::OutOfMemory,
        message: "no memory".into(),
        sequence: 7,
        time: "2026-01-01T00:00:00.000Z".into(),
    };
    let queued = Queued { job_id: job.clone(), position: None, reason: Some("no worker".into()) };
    let listed = JobSummary {
        job_id: job.clone(),
        status: JobStatus::Queued,
        operation: Some("image_generation".into()),
        model: None,
        created_ms: 1_700_000_000_000,
        prompt: Some("a".into()),
    };
    let posted =
        |event: Event| serde_json::to_value(WebhookBody::new(event, "2026-01-01T00:00:00.000Z".into()));
    for (name, value) in [
        ("webhook.json", posted(events().swap_remove(3))),
        ("webhook.json", posted(events().swap_remove(5))),
        ("queued.json", serde_json::to_value(&queued)),
        ("queued.json", serde_json::to_value(Queued { position: Some(0), reason: None, ..queued.clone() })),
        ("job_list.json", serde_json::to_value(JobList { jobs: vec![listed], next: Some("1-j".into()) })),
        ("job_list.json", serde_json::to_value(JobList { jobs: vec![], next: None })),
        ("dead_letters.json", serde_json::to_value(DeadLetters { dead_letters: vec![letter] })),
        ("job_response.json", serde_json::to_value(JobResponse::new(job.clone()))),
        ("job_view.json", serde_json::to_value(&view)),
        ("job_view.json", serde_json::to_value(JobView { event: None, ..view })),
        ("worker_info.json", serde_json::to_value(worker())),
        ("workers.json", serde_json::to_value(Workers { workers: vec![worker()] })),
        ("health.json", serde_json::to_value(health)),
        ("error.json", serde_json::to_value(error(WireCode::Http(HttpCode::NotFound)))),
        ("error.json", serde_json::to_value(error(WireCode::Job(ErrorCode::Busy)))),
    ] {
        let value = value.unwrap();
        let validator = validator(name);
        assert!(validator.is_valid(&value), "{name} {value}: {:?}", validator.validate(&value));
        assert!(!validator.is_valid(&json!({})), "{name} takes anything");
    }
    let mut unknown = serde_json::to_value(worker()).unwrap();
    unknown["status"] = json!("asleep");
    let other = json!({"error": {"code": "teapot", "message": "no", "retryable": false}});
    assert!(!validator("error.json").is_valid(&other));
    assert!(!validator("worker_info.json").is_valid(&unknown));
}

#[test]
fn a_command_to_a_worker_is_valid_and_what_is_refused_is_not() {
    let validator = validator("control.json");
    for name in Command::NAMES {
        let model = matches!(name, "load" | "unload").then_some("tiny");
        let command = match model {
            Some(model) => json!({"command": name, "model": model}),
            None => json!({"command": name}),
        };
        assert!(validator.is_valid(&command), "{command}");
        let read = Command::parse(command.to_string().as_bytes()).expect("a command");
        assert_eq!(serde_json::to_value(read).unwrap(), command);
    }
    for bad in [
        json!({}),
        json!({"command": "explode"}),
        json!({"command": "load"}),
        json!({"command": "drain", "now": true}),
        json!({"command": "drain", "model": "m"}),
        json!(["drain"]),
    ] {
        assert!(!validator.is_valid(&bad), "{bad}");
        assert!(Command::parse(bad.to_string().as_bytes()).is_err(), "{bad}");
    }
}
