//! The agent of the load: speaks the `claude` dialect, and costs nothing.
//!
//! A prompt `hold` opens a turn and leaves the rest to the load generator, which writes to this
//! process's standard output itself: nobody stands between it and the server. Any other prompt is
//! answered with a turn of one line.

#[path = "../machine.rs"]
#[allow(dead_code, reason = "the load generator uses the rest")]
mod machine;
#[path = "../wire.rs"]
#[allow(dead_code, reason = "the load generator uses the rest")]
mod wire;

use serde_json::Value;
use std::io::{BufRead, Write};

/// Where the load generator reads which process to write through; in the working directory.
const PID_FILE: &str = "load-agent.pid";

fn main() -> std::io::Result<()> {
    machine::pin(machine::LOAD_CORE);
    let mut out = std::io::stdout();
    for line in std::io::stdin().lock().lines() {
        let Ok(message) = serde_json::from_str::<Value>(&line?) else { continue };
        if message["type"] == "control_request" {
            let id = message["request_id"].as_str().unwrap_or_default();
            let answer = r#"{"commands":[],"agents":[],"models":[],"account":{"apiKeySource":
                "ANTHROPIC_API_KEY"},"claude_code_version":"2.1.330","session_state":"idle"}"#;
            out.write_all(&wire::control_answer(id, &answer.replace('\n', "")))?;
        } else if message["type"] == "user" {
            out.write_all(&wire::turn_begins())?;
            if is_hold(&message) {
                std::fs::write(PID_FILE, std::process::id().to_string())?;
            } else {
                out.write_all(&wire::turn_ends())?;
            }
        }
        out.flush()?;
    }
    Ok(())
}

fn is_hold(message: &Value) -> bool {
    let content = &message["message"]["content"];
    content.as_str().or_else(|| content[0]["text"].as_str()) == Some("hold")
}
