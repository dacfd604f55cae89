//! What the logs of workers are counted by. When a message is worded otherwise, it is changed here.

use serde_json::Value;

/// A run that began at a checkpoint.
pub const RESUMED: &str = "goes on from a snapshot";
/// A delivery of a job that had ended; a job whose result was found in the store and told again; a run whose job was ended
/// by somebody else, and one whose job is somebody else's by now. No picture is stored for any of them.
pub const DUPLICATES: [&str; 4] = [
    "the job has ended already",
    "the job has a result already",
    "the job was ended elsewhere",
    "another worker has the job",
];

/// A snapshot that stays although its job has ended.
pub const NOT_REMOVED: &str = "the job's snapshot could not be removed";

/// Lines of a log (JSON, one object a line) whose message has this text.
pub fn count(log: &str, text: &str) -> u64 {
    log.lines().filter(|line| line.contains(text) && message(line).is_some_and(|m| m.contains(text))).count()
        as u64
}

/// Lines of a log that name this job.
pub fn of_job<'a>(log: &'a str, job: &str) -> Vec<&'a str> {
    let quoted = format!("\"{job}\"");
    log.lines().filter(|line| line.contains(&quoted)).collect()
}

fn message(line: &str) -> Option<String> {
    let value: Value = serde_json::from_str(line).ok()?;
    value["message"].as_str().map(str::to_owned)
}

#[test]
fn lines_are_counted_by_their_message_alone() {
    let log = concat!(
        r#"{"level":"INFO","message":"the job goes on from a snapshot","job":"a"}"#,
        "\nKilled\n",
        r#"{"level":"INFO","message":"other","note":"goes on from a snapshot","job":"ab"}"#,
    );
    assert_eq!(count(log, RESUMED), 1);
    assert_eq!(of_job(log, "a").len(), 1);
}
