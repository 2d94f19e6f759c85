//! Rows of the table about heads: targets, hosts, lines, sizes, and other protocols.

use anyhow::Result;

use crate::table::{check, row, with};
use crate::{get, post};

/// A GET with these field lines in place of Host.
fn hosted(path: &str, fields: &str) -> String {
    format!("GET {path} HTTP/1.1\r\n{fields}\r\n")
}

#[test]
fn targets() -> Result<()> {
    let line = |target: &str| format!("GET {target} HTTP/1.1\r\nHost: web\r\n\r\n");
    let mut rows = Vec::new();
    for target in [
        "/forbidden",
        "/forbidden?",
        "/forbidden?x=/../ok",
        "/forbidden/../forbidden/x",
        "/x/../forbidden",
        "/./forbidden",
        "/%66orbidden",
        "/x/%2e%2e/forbidden",
        "/%2E/forbidden",
        "/%2e%2e/forbidden",
        "/../forbidden",
        "/x\\..\\forbidden",
        "/forbidden;x",
        "/forbidden%2fx",
        "/forbidden/%2e",
        "http://web/forbidden",
        "http://other/forbidden",
        "HTTP://WEB/forbidden",
        "http://web:80/x/../forbidden",
        "/forbidden#x",
        "/forbidden%00",
        "/forbidden%3fx",
    ] {
        rows.push(row(target, line(target), &["403", "400"]));
    }
    // these are other paths, as Istio has it
    for target in [
        "//forbidden",
        "/x/%2fforbidden",
        "/Forbidden",
        "/?/forbidden",
        "/;/forbidden",
        "/x?/../forbidden",
        "/x/forbidden",
        "/ok#/../forbidden",
        "/%2f/forbidden",
        "/forbidde%6",
        "/x?%2e%2e/forbidden",
        "/?",
        "/",
        "/ok%20/x",
        "http://web",
        "http://web?x",
    ] {
        rows.push(row(target, line(target), &["200 v1", "400"]));
    }
    for target in [
        "forbidden",
        "web:80",
        "web",
        "*",
        "?x",
        "",
        "/a b",
        "/forbidden HTTP/1.1 x",
        "/\u{e9}",
        "/\u{1}",
        "/\u{7f}",
        "/\u{0}",
        "ftp://web/forbidden",
        "://web/forbidden",
        "http:///forbidden",
        "http://",
        "//",
        "/\t",
    ] {
        let fine: &[_] = if target == "//" { &["200 v1"] } else { &["400", "403", "404"] };
        rows.push(row(&format!("target {target:?}"), line(target), fine));
    }
    rows.push(row(
        "OPTIONS *",
        "OPTIONS * HTTP/1.1\r\nHost: web\r\n\r\n",
        &["200 v1", "400", "404"],
    ));
    check("target", &rows)
}

#[test]
fn hosts() -> Result<()> {
    let mut rows = Vec::new();
    for host in
        ["web", "WEB", "web.", "web:80", "web.:80", "wEb", "web.default", "web:", "web:99999"]
    {
        let field = format!("Host: {host}\r\n");
        rows.push(row(&field, hosted("/forbidden", &field), &["403", "400"]));
        rows.push(row(&field, hosted("/ok", &field), &["200 v1", "400"]));
    }
    for fields in [
        "",
        "Host: web\r\nHost: web\r\n",
        "Host: web\r\nHost: other\r\n",
        "Host : web\r\n",
        "Host: we\u{0}b\r\n",
        "Host: web\u{b}\r\n",
        " Host: web\r\n",
    ] {
        for path in ["/forbidden", "/ok"] {
            rows.push(row(&format!("{path} {fields:?}"), hosted(path, fields), &["400"]));
        }
    }
    // other names than web, which these rules do not look at
    for fields in [
        "Host: w\u{e9}b\r\n",
        "Host: web\u{ff}\r\n",
        "Host: web/x\r\n",
        "Host: web, other\r\n",
        "Host: user@web\r\n",
        "Host: we b\r\n",
        "Host: web:80:80\r\n",
        "Host: web:-1\r\n",
        "Host: [::1\r\n",
    ] {
        for path in ["/forbidden", "/ok"] {
            rows.push(row(&format!("{path} {fields:?}"), hosted(path, fields), &["400"]));
        }
    }
    for fields in ["Host:\r\n", "Host: \r\n", "Host: web..\r\n", "Host: .web\r\n"] {
        rows.push(row(&format!("{fields:?}"), hosted("/forbidden", fields), &["403", "400"]));
    }
    check("host", &rows)
}

#[test]
fn lines_of_heads() -> Result<()> {
    let mut rows = Vec::new();
    for (name, fields) in [
        ("obs-fold", "X: y\r\n folded\r\n"),
        ("obs-fold by tab", "X: y\r\n\tfolded\r\n"),
        ("a folded first field", " X: y\r\n"),
        ("NUL in a value", "X: a\u{0}b\r\n"),
        ("NUL in a name", "X\u{0}: a\r\n"),
        ("bare CR in a value", "X: a\rb\r\n"),
        ("8-bit name", "X\u{e9}: a\r\n"),
        ("no colon", "X\r\n"),
        ("no name", ": a\r\n"),
        ("a space in a name", "X Y: a\r\n"),
        ("a space before the colon", "end-user : jason\r\n"),
        ("DEL in a value", "X: \u{7f}\r\n"),
        ("control in a value", "X: \u{1}\r\n"),
    ] {
        rows.push(row(name, with("/forbidden", fields), &["400"]));
        rows.push(row(name, with("/ok", fields), &["400"]));
    }
    for (name, fields) in [
        ("8-bit value", "X: caf\u{e9}\r\n"),
        ("empty value", "X:\r\n"),
        ("tab in a value", "X: a\tb\r\n"),
        ("bare LF behind a field", "X: y\n"),
        ("bare LF before the end", "X: y\n\r\n"),
    ] {
        rows.push(row(name, with("/forbidden", fields), &["403", "400"]));
        rows.push(row(name, with("/ok", fields), &["200 v1", "400"]));
    }
    for (name, fields) in [
        ("jason, in parts", "end-user: ja\r\nend-user: son\r\n"),
        ("jason and another", "end-user: jason\r\nend-user: x\r\n"),
        ("jason with 8 bits", "end-user: jason\u{e9}\r\n"),
        ("JASON", "end-user: JASON\r\n"),
        ("another name", "end_user: jason\r\n"),
        ("an empty one", "end-user:\r\n"),
    ] {
        rows.push(row(name, with("/ok", fields), &["200 v1"]));
    }
    let far = format!("end-user:{}jason{}\r\n", " ".repeat(100), "\t".repeat(100));
    for fields in ["END-USER:jason\r\n", "end-user:\t jason \t\r\n", &far] {
        rows.push(row(fields, with("/ok", fields), &["200 v2"]));
    }
    rows.push(row("LF alone", get("/forbidden").replace("\r\n", "\n"), &["403", "400"]));
    rows.push(row("CR alone", get("/forbidden").replace("\r\n", "\r") + "\r\n\r\n", &["400"]));
    rows.push(row(
        "empty lines in front",
        "\r\n\r\n".to_owned() + &get("/forbidden"),
        &["403", "400"],
    ));
    rows.push(row("LF in front", "\n".to_owned() + &get("/forbidden"), &["403", "400"]));
    rows.push(row("space in front", " ".to_owned() + &get("/forbidden"), &["400"]));
    check("lines", &rows)
}

#[test]
fn large_heads() -> Result<()> {
    let mut rows = Vec::new();
    for kib in [4, 16, 64, 1024] {
        let long = |fields: &str| format!("{fields}X: {}\r\n", "y".repeat(kib << 10));
        let many = "X: 0123456789012345678901234\r\n".repeat(kib << 5);
        for (kind, fields) in [("field", long("")), ("fields", many)] {
            let name = |what: &str| format!("{kib} KiB {kind} {what}");
            // a server or the proxy may have a limit, and says so
            rows.push(row(&name("ok"), with("/ok", &fields), &["200 v1", "431", "400", "end"]));
            rows.push(row(
                &name("forbidden"),
                with("/forbidden", &fields),
                &["403", "431", "400", "end"],
            ));
            let fields = fields + "end-user: jason\r\n";
            rows.push(row(&name("for v2"), with("/ok", &fields), &["200 v2", "431", "400", "end"]));
        }
        let path = "z".repeat(kib << 10);
        let may = ["403", "431", "414", "400", "end"];
        rows.push(row(&format!("{kib} KiB path"), get(&format!("/forbidden/{path}")), &may));
        let may = ["403", "431", "414", "400", "end"];
        rows.push(row(&format!("{kib} KiB of query"), get(&format!("/forbidden?{path}")), &may));
    }
    check("large", &rows)
}

#[test]
fn other_protocols_and_methods() -> Result<()> {
    let websocket = "Connection: Upgrade\r\nUpgrade: websocket\r\n\
                     Sec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n";
    let old = |path: &str, fields: &str| format!("GET {path} HTTP/1.0\r\n{fields}\r\n");
    let method = |method: &str, path: &str| get(path).replacen("GET", method, 1);
    let expect = "Expect: 100-continue\r\nContent-Length: 3\r\n";
    let hello = "\u{16}\u{3}\u{1}\u{2}\u{0}\u{1}\u{0}\u{1}\u{fc}\u{3}\u{3}".to_owned();
    let mut rows = vec![
        row("HTTP/1.0", old("/ok", "Host: web\r\n"), &["200 v1, end"]),
        row("HTTP/1.0 forbidden", old("/forbidden", "Host: web\r\n"), &["403"]),
        row("HTTP/1.0 without Host", old("/forbidden", ""), &["403", "400"]),
        row(
            "HTTP/1.0 keep-alive",
            old("/forbidden", "Connection: keep-alive\r\n"),
            &["403", "400"],
        ),
        row("HTTP/0.9", "GET /forbidden\r\n", &["400", "end", "waits"]),
        row("HTTP/0.9 and more", "GET /forbidden\r\n\r\n", &["400", "end"]),
        row("HTTP/1.2", get("/forbidden").replace("1.1", "1.2"), &["400", "403", "505"]),
        row("HTTP/2.0", get("/forbidden").replace("1.1", "2.0"), &["400", "505"]),
        row("http/1.1", get("/forbidden").replace("HTTP", "http"), &["400"]),
        row("HTTP/1.1 and a space", get("/forbidden").replace("1.1", "1.1 "), &["400"]),
        row("two spaces", get("/forbidden").replace("GET ", "GET  "), &["400"]),
        row("TLS", hello.clone() + &"\u{0}".repeat(500), &["400"]),
        row("TLS and a request", hello + "\r\n\r\n" + &get("/forbidden"), &["400"]),
        row("websocket", with("/ok", websocket), &["200 v1"]),
        row("websocket forbidden", with("/forbidden", websocket), &["403"]),
        row(
            "h2c",
            with(
                "/forbidden",
                "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n",
            ),
            &["403", "400"],
        ),
        row("Connection: Host", with("/forbidden", "Connection: Host\r\n"), &["403", "400"]),
        row(
            "CONNECT",
            "CONNECT web:80 HTTP/1.1\r\nHost: web\r\n\r\n",
            &["400", "404", "405", "501"],
        ),
        row("CONNECT of a path", method("CONNECT", "/forbidden"), &["400", "403", "405", "501"]),
        row("Expect forbidden", post("/forbidden", expect, "abc"), &["403", "100, 403"]),
        row("Expect", post("/sum", expect, "abc"), &["200 v1", "100, 200 v1"]),
        row("another Expect", with("/forbidden", "Expect: x\r\n"), &["403", "417"]),
    ];
    for name in [
        "get",
        "GeT",
        "FOO",
        "TRACE",
        "G",
        "G-E.T",
        "PROPFIND",
        "GET1",
        "PURGEPURGEPURGEPURGEPURGE",
    ] {
        rows.push(row(name, method(name, "/forbidden"), &["403", "400"]));
        rows.push(row(name, method(name, "/ok"), &["200 v1", "400"]));
    }
    for name in ["G\u{0}T", "G T", "(", "", "\u{e9}"] {
        rows.push(row(&format!("method {name:?}"), method(name, "/forbidden"), &["400"]));
    }
    for name in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"] {
        rows.push(row(name, method(name, "/forbidden"), &["403"]));
    }
    check("protocol", &rows)
}
