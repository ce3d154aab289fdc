//! A guest with a network, on the soft engine: it fetches a file from this machine, and replays without server or network.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests, also outside of test functions")]

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;

use scribe_log::{Body, DeviceInput};
use scribe_tests::lab::{Lab, text};

/// Serves one file to whoever asks, until the test ends. Gives the port.
fn serve(body: &'static [u8]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let _ = answer(stream, body);
        }
    });
    port
}

fn answer(mut stream: TcpStream, body: &[u8]) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
    write!(stream, "HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n", body.len())?;
    stream.write_all(body)
}

fn has_passt() -> bool {
    Command::new("passt").arg("--version").output().is_ok()
}

#[test]
fn a_download_is_replayed_without_a_network() {
    let Some(lab) = Lab::on_soft("a_download_is_replayed_without_a_network") else { return };
    if !has_passt() {
        println!("SKIPPED a_download_is_replayed_without_a_network: passt is not installed");
        return;
    }
    const BODY: &[u8] = b"fetched over the network\n";
    let port = serve(BODY);
    let script = format!(
        "ip link set eth0 up && ip addr add 10.0.2.15/24 dev eth0 && ip route add default via 10.0.2.2 && \
         wget -q -O - http://10.0.2.2:{port}/ && cat /sys/class/net/eth0/address && echo done"
    );
    let capture = lab.path("net.pcap");
    let guest =
        ["--net", "user", "--net-capture", text(&capture), "--pace", "max", "--", "sh", "-c", &script];
    let recorded = lab.record("net", &guest).shows("fetched over the network").shows("52:54:00:12:34:56");
    let frames = lab
        .events("net")
        .iter()
        .filter(|event| matches!(event.body, Body::Device { input: DeviceInput::Frame(_), .. }))
        .count();
    assert!(frames > 3, "{frames} frames");
    // Nothing of the host's network is needed again.
    lab.replays_equal("net", &recorded);
    let again = lab.path("again.pcap");
    let empty = lab.path("no-programs");
    std::fs::create_dir(&empty).unwrap();
    let recording = lab.path("net");
    let replay = ["replay", text(&recording), "--no-snapshots", "--net-capture", text(&again)];
    lab.call(&replay).env("PATH", text(&empty)).finish().ends_with(0);
    same(&capture, &again);
}

fn same(a: &Path, b: &Path) {
    assert!(std::fs::read(a).unwrap() == std::fs::read(b).unwrap(), "the captures differ");
}

#[test]
fn a_network_whose_other_end_goes_is_a_link_that_is_down() {
    let Some(lab) = Lab::on_soft("a_network_whose_other_end_goes_is_a_link_that_is_down") else { return };
    // A passt that ends at once.
    let programs = lab.path("programs");
    std::fs::create_dir(&programs).unwrap();
    let passt = programs.join("passt");
    std::fs::write(&passt, "#!/bin/sh\necho no network today >&2\n").unwrap();
    Command::new("chmod").arg("+x").arg(&passt).status().unwrap();
    let script = "ip link set eth0 up; sleep 1; echo carrier $(cat /sys/class/net/eth0/carrier)";
    let path = format!("{}:/usr/bin:/bin", programs.display());
    let recorder = lab.recorder("down", &["--net", "user", "--", "sh", "-c", script]).env("PATH", &path);
    let recorded = recorder.finish().ends_with(0).says("no network today").shows("carrier 0");
    lab.replays_equal("down", &recorded);
}

#[test]
fn a_network_that_cannot_be_is_refused() {
    let Some(lab) = Lab::on_soft("a_network_that_cannot_be_is_refused") else { return };
    let refused = |net: &str, words: &str| {
        let recorder = lab.recorder("none", &["--net", net, "--", "true"]).env("PATH", "/nonexistent");
        recorder.finish().ends_with(5).says(words);
    };
    refused("user", "install it");
    refused("tap=a/b", "an interface's name");
    lab.recorder("none", &["--net", "bridge", "--", "true"]).finish().ends_with(2).says("tap=NAME");
}
