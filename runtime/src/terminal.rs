//! Draws [`Event`]s on standard error: bars on a terminal, plain lines elsewhere, JSON on request.
//! Used by the two programs, never by the libraries.

use std::collections::HashMap;
use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::{Event, Progress, Unit};

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Bars where standard error is a terminal, plain lines elsewhere.
    Auto,
    /// A line for each stage and its result.
    Plain,
    /// One JSON object a line.
    Json,
    /// Nothing but errors.
    Quiet,
}

/// A [`Progress`] that draws on standard error in the given style.
pub fn progress(style: Style) -> Progress {
    match style {
        Style::Quiet => Progress::silent(),
        Style::Auto if std::io::stderr().is_terminal() => bars(),
        Style::Auto | Style::Plain => plain(),
        Style::Json => json(),
    }
}

/// A line at most this often for one stage that goes on, so that logs stay readable.
const PLAIN_LINE_EVERY: Duration = Duration::from_secs(10);

struct Running {
    title: String,
    unit: Unit,
    total: Option<u64>,
    began: Instant,
    said: Instant,
}

fn say(line: &str) {
    // A closed standard error is no reason to stop working.
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn plain() -> Progress {
    let stages: Mutex<HashMap<u64, Running>> = Mutex::default();
    Progress::new(move |event| {
        let mut stages = stages.lock().unwrap_or_else(|p| p.into_inner());
        match event {
            Event::Begin { stage, title, unit, total } => {
                let now = Instant::now();
                say(&format!("{title} …"));
                stages.insert(stage, Running { title, unit, total, began: now, said: now });
            }
            Event::Advance { stage, done } => {
                if let Some(s) = stages.get_mut(&stage)
                    && s.said.elapsed() >= PLAIN_LINE_EVERY
                {
                    s.said = Instant::now();
                    let of = s.total.map(|t| format!(" of {}", s.unit.amount(t)));
                    let done = s.unit.amount(done);
                    say(&format!("{} … {done}{}", s.title, of.unwrap_or_default()));
                }
            }
            Event::End { stage, summary } => {
                if let Some(s) = stages.remove(&stage)
                    && let Some(summary) = summary
                {
                    say(&format!("{}: {summary} ({:.1?})", s.title, s.began.elapsed()));
                }
            }
            Event::Note { text } => say(&text),
        }
    })
}

fn bars() -> Progress {
    let multi = MultiProgress::new();
    let stages: Mutex<HashMap<u64, (ProgressBar, Instant)>> = Mutex::default();
    Progress::new(move |event| {
        let mut stages = stages.lock().unwrap_or_else(|p| p.into_inner());
        match event {
            Event::Begin { stage, title, unit, total } => {
                let bar = multi.add(match total {
                    Some(total) => ProgressBar::new(total),
                    None => ProgressBar::new_spinner(),
                });
                bar.set_style(bar_style(unit, total.is_some()));
                bar.set_message(title);
                bar.enable_steady_tick(Duration::from_millis(120));
                stages.insert(stage, (bar, Instant::now()));
            }
            Event::Advance { stage, done } => {
                if let Some((bar, _)) = stages.get(&stage) {
                    bar.set_position(done);
                }
            }
            Event::End { stage, summary } => {
                if let Some((bar, began)) = stages.remove(&stage) {
                    bar.finish_and_clear();
                    multi.remove(&bar);
                    if let Some(summary) = summary {
                        let title = bar.message();
                        let _ =
                            multi.println(format!("{title}: {summary} ({:.1?})", began.elapsed()));
                    }
                }
            }
            Event::Note { text } => {
                let _ = multi.println(text);
            }
        }
    })
}

fn bar_style(unit: Unit, known: bool) -> ProgressStyle {
    let template = match (unit, known) {
        (Unit::Bytes, true) => {
            "{msg} [{bar:30}] {bytes}/{total_bytes} {binary_bytes_per_sec} {eta}"
        }
        (Unit::Items, true) => "{msg} [{bar:30}] {pos}/{len} {eta}",
        (Unit::Bytes, false) => "{spinner} {msg} {bytes} {binary_bytes_per_sec} {elapsed}",
        (Unit::Items, false) => "{spinner} {msg} {pos} {elapsed}",
    };
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

fn json() -> Progress {
    let last: Mutex<HashMap<u64, Instant>> = Mutex::default();
    Progress::new(move |event| {
        let value = match event {
            Event::Begin { stage, title, unit, total } => {
                let unit = if unit == Unit::Bytes { "bytes" } else { "items" };
                serde_json::json!({"event": "begin", "stage": stage, "title": title,
                                   "unit": unit, "total": total})
            }
            Event::Advance { stage, done } => {
                let mut last = last.lock().unwrap_or_else(|p| p.into_inner());
                let due = last.get(&stage).is_none_or(|t| t.elapsed().as_millis() >= 200);
                if !due {
                    return;
                }
                last.insert(stage, Instant::now());
                serde_json::json!({"event": "advance", "stage": stage, "done": done})
            }
            Event::End { stage, summary } => {
                last.lock().unwrap_or_else(|p| p.into_inner()).remove(&stage);
                serde_json::json!({"event": "end", "stage": stage, "ok": summary.is_some(),
                                   "summary": summary})
            }
            Event::Note { text } => serde_json::json!({"event": "note", "text": text}),
        };
        say(&value.to_string());
    })
}

/// Says on standard error that `program` failed, and the hint if there is one.
pub fn failure(program: &str, style: Style, error: &crate::Error) {
    if style == Style::Json {
        let value = serde_json::json!({"event": "error", "class": error.class().name(),
                                       "error": error.to_string(), "hint": error.hint_text(),
                                       "detail": error.detail_text()});
        return say(&value.to_string());
    }
    for line in error.detail_text().unwrap_or_default().lines() {
        say(&format!("| {line}"));
    }
    say(&format!("{program}: {error}"));
    if let Some(hint) = error.hint_text() {
        say(&format!("hint: {hint}"));
    }
}
