//! A headless Chromium, driven through its debugging pipe (the Chrome DevTools Protocol): what a page does when somebody
//! looks at it, points at it and types.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use serde_json::{Value, json};

use crate::lab::{text, wait_until};
use crate::tiny;

/// Seconds that the browser may take for an answer.
const LIMIT_S: u64 = 60;
/// So that it asks for nothing by itself, and needs no graphics.
const FLAGS: [&str; 10] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
];

/// The browser, with one page.
pub struct Browser {
    child: Child,
    commands: File,
    messages: Receiver<Value>,
    next: u64,
    session: String,
    /// exceptions, console messages, requests, as the browser tells of them
    events: Vec<Value>,
    _folder: tempfile::TempDir,
}

impl Browser {
    /// Starts one for `test`; without a Chromium the test is skipped.
    pub fn start(test: &str) -> Option<Self> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        if !std::env::split_paths(&path).any(|folder| folder.join("chromium").is_file()) {
            tiny::skip(test, "no chromium: make setup");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let [commands, messages] = ["commands", "messages"].map(|name| folder.path().join(name));
        assert!(Command::new("mkfifo").args([&commands, &messages]).status().unwrap().success());
        // The pipe is file descriptors 3 and 4.
        let script = "commands=$1 messages=$2; shift 2; exec chromium \"$@\" 3<\"$commands\" 4>\"$messages\"";
        let child = Command::new("sh")
            .args(["-c", script, "sh", text(&commands), text(&messages)])
            .args(FLAGS)
            .arg(format!("--user-data-dir={}", text(&folder.path().join("profile"))))
            .arg("about:blank")
            .env("HOME", folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // In the shell's order, as each waits for the other side.
        let commands = File::options().write(true).open(commands).unwrap();
        let messages = listen(File::open(messages).unwrap());
        let session = String::new();
        let mut browser =
            Self { child, commands, messages, next: 0, session, events: Vec::new(), _folder: folder };
        let target = browser.call("Target.createTarget", json!({ "url": "about:blank" }));
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let attached = browser.call("Target.attachToTarget", attach);
        browser.session = attached["sessionId"].as_str().unwrap().to_owned();
        for domain in ["Page", "Runtime", "Network", "Log"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        Some(browser)
    }

    /// Calls a method of the protocol.
    ///
    /// # Panics
    /// It fails, or there is no answer.
    pub fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.next += 1;
        let mut command = json!({ "id": self.next, "method": method, "params": parameters });
        if !self.session.is_empty() {
            command["sessionId"] = json!(self.session);
        }
        self.commands.write_all(format!("{command}\0").as_bytes()).unwrap();
        loop {
            let message = self.messages.recv_timeout(Duration::from_secs(LIMIT_S));
            let message =
                message.unwrap_or_else(|error| panic!("{method}: no answer from the browser: {error}"));
            if message["id"] == json!(self.next) {
                assert!(message["error"].is_null(), "{method}: {}", message["error"]);
                return message["result"].clone();
            }
            self.events.push(message);
        }
    }

    /// Opens a page of `width` by `height` pixels in a colour scheme, `light` or `dark`, and waits until its document says
    /// that it is ready (`data-state`).
    pub fn open(&mut self, page: &Path, (width, height): (u32, u32), scheme: &str) {
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.call("Emulation.setEmulatedMedia", json!({ "features": features }));
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.call("Emulation.setDeviceMetricsOverride", size);
        self.events.clear();
        self.call("Page.navigate", json!({ "url": format!("file://{}", text(page)) }));
        self.waits_for("document.documentElement?.dataset.state === 'ready'");
    }

    /// What a script's expression comes to.
    pub fn evaluate(&mut self, expression: &str) -> Value {
        let parameters = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let result = self.call("Runtime.evaluate", parameters);
        assert!(result["exceptionDetails"].is_null(), "{expression}: {}", result["exceptionDetails"]);
        result["result"]["value"].clone()
    }

    /// The text that an expression comes to.
    pub fn text(&mut self, expression: &str) -> String {
        let value = self.evaluate(expression);
        value.as_str().unwrap_or_else(|| panic!("{expression} is {value}, no text")).to_owned()
    }

    /// The number that an expression comes to.
    pub fn number(&mut self, expression: &str) -> f64 {
        let value = self.evaluate(&format!("Number({expression})"));
        value.as_f64().unwrap_or_else(|| panic!("{expression} is {value}, no number"))
    }

    /// Waits until an expression is true.
    pub fn waits_for(&mut self, expression: &str) {
        let condition = format!("Boolean({expression})");
        let came = wait_until(LIMIT_S, || self.evaluate(&condition) == json!(true));
        assert!(came, "{expression} is not true after {LIMIT_S} s; {:?}", self.events);
    }

    /// A mouse event at a place of the window.
    pub fn mouse(&mut self, kind: &str, (x, y): (f64, f64), more: Value) {
        let mut event = json!({ "type": kind, "x": x, "y": y });
        event.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.call("Input.dispatchMouseEvent", event);
    }

    /// Points there.
    pub fn points_at(&mut self, place: (f64, f64)) {
        self.mouse("mouseMoved", place, json!({}));
    }

    /// Presses the button at one place and lets it go at another.
    pub fn drags(&mut self, from: (f64, f64), to: (f64, f64)) {
        self.points_at(from);
        self.mouse("mousePressed", from, json!({ "button": "left", "clickCount": 1 }));
        self.mouse("mouseMoved", to, json!({ "button": "left", "buttons": 1 }));
        self.mouse("mouseReleased", to, json!({ "button": "left", "clickCount": 1 }));
    }

    /// Clicks.
    pub fn clicks(&mut self, place: (f64, f64)) {
        self.drags(place, place);
    }

    /// Turns the wheel.
    pub fn wheels(&mut self, place: (f64, f64), by: f64) {
        self.mouse("mouseWheel", place, json!({ "deltaX": 0, "deltaY": by }));
    }

    /// Presses a key: a character, or a name such as `ArrowLeft`.
    pub fn presses(&mut self, key: &str) {
        let mut event = json!({ "type": "keyDown", "key": key });
        if key.chars().count() == 1 {
            event["text"] = json!(key);
        }
        self.call("Input.dispatchKeyEvent", event);
        self.call("Input.dispatchKeyEvent", json!({ "type": "keyUp", "key": key }));
    }

    /// The window as a PNG.
    pub fn screenshot(&mut self) -> Vec<u8> {
        let shot = self.call("Page.captureScreenshot", json!({ "format": "png" }));
        from_base64(shot["data"].as_str().unwrap())
    }

    /// Expects that since the page was opened nothing was reported (no exception, no console message, no violation of the
    /// page's policy) and nothing was asked for but the page itself.
    #[track_caller]
    pub fn was_quiet(&mut self) {
        self.evaluate("0"); // what came before has been told of by then
        let of =
            |method: &str| self.events.iter().filter(|event| event["method"] == method).collect::<Vec<_>>();
        for method in ["Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"] {
            assert!(of(method).is_empty(), "{:#?}", of(method));
        }
        let requests = of("Network.requestWillBeSent");
        assert_eq!(requests.len(), 1, "{requests:#?}");
        assert_eq!(requests[0]["params"]["type"], "Document");
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        self.session.clear();
        let _ = self.commands.write_all(b"{\"id\":0,\"method\":\"Browser.close\"}\0");
        if !wait_until(10, || matches!(self.child.try_wait(), Ok(Some(_)))) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// The browser's messages, each ended by a NUL.
fn listen(from: File) -> Receiver<Value> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let mut from = BufReader::new(from);
        let mut message = Vec::new();
        while let Ok(1..) = from.read_until(0, &mut message) {
            let parsed = serde_json::from_slice(message.strip_suffix(b"\0").unwrap_or(&message));
            message.clear();
            if parsed.is_ok_and(|message: Value| sender.send(message).is_err()) {
                return;
            }
        }
    });
    receiver
}

/// RFC 4648, section 4.
pub fn from_base64(text: &str) -> Vec<u8> {
    let (mut out, mut word, mut bits) = (Vec::new(), 0u32, 0);
    for byte in text.bytes().filter(|byte| *byte != b'=') {
        let digit = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => panic!("{byte:#x} in base64"),
        };
        word = word << 6 | u32::from(digit);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            out.push((word >> bits).to_le_bytes()[0]);
        }
    }
    out
}
