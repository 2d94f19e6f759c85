//! A connection's bytes are judged whichever system call brings them.

use anyhow::Result;
use serde_json::json;

use crate::bed::Bed;
use crate::kit::{
    ALL, Client, NATIVE, SHORTCUT, WEB, apply, asked, assert_not_asked, get, no_admin,
};

/// What tells that a forbidden request was refused: an answer, or that it could not be sent.
fn is_refusal(answer: &str) -> bool {
    matches!(answer, "403" | "EACCES")
}

/// Sends by one way and reads.
fn exchange(client: &mut Client, way: &str, text: &str) -> Result<String> {
    let sent = client.send(way, text)?;
    if sent != "sent" {
        return Ok(sent);
    }
    client.read()
}

/// A forbidden request by itself, behind an allowed one, and in two parts of which the other comes by
/// the plain way. How many requests were answered by a server.
fn try_way(client: &mut Client, way: &str) -> Result<usize> {
    let (fine, forbidden) = (get("/fine"), get("/admin/x"));
    client.connect(WEB)?;
    let answer = exchange(client, way, &fine)?;
    if answer == "ENOTSUP" {
        // the kernel has no way to send without a copy through a program
        assert_eq!(exchange(client, way, &forbidden)?, answer, "{way}");
        return Ok(0);
    }
    assert_eq!(answer, "200", "{way}");
    let answer = exchange(client, way, &forbidden)?;
    assert!(is_refusal(&answer), "{way}: {answer}");
    client.connect(WEB)?;
    assert_eq!(exchange(client, way, &format!("{fine}{forbidden}"))?, "200", "{way}");
    let answer = client.read()?;
    assert!(is_refusal(&answer), "{way}, behind another: {answer}");
    for ways in [[way, "plain"], ["plain", way]] {
        for cut in [3, 10, forbidden.len() - 1] {
            client.connect(WEB)?;
            assert_eq!(client.send(ways[0], &forbidden[..cut])?, "sent", "{ways:?}, {cut}");
            let answer = exchange(client, ways[1], &forbidden[cut..])?;
            assert!(is_refusal(&answer), "{ways:?}, {cut}: {answer}");
        }
        client.connect(WEB)?;
        assert_eq!(client.send(ways[0], &fine[..10])?, "sent", "{ways:?}");
        assert_eq!(exchange(client, ways[1], &fine[10..])?, "200", "{ways:?}");
    }
    Ok(4)
}

#[test]
fn every_way_to_send_is_judged() -> Result<()> {
    for shape in [NATIVE, SHORTCUT] {
        let mut bed = Bed::new("sends", shape, ALL)?;
        bed.record_requests()?;
        apply(&bed, "policy.yaml", &no_admin())?;
        let mut client = Client::start(&bed.client)?;
        let ways: Vec<String> = serde_json::from_value(client.ask(json!({}))?)?;
        let mut served = 0;
        for way in &ways {
            served += try_way(&mut client, way)?;
        }
        assert_not_asked(&bed, "admin")?;
        assert!(served >= 4 * 15, "hardly any way works: {ways:?}");
        assert_eq!(asked(&bed)?.len(), served, "what is allowed came, once each");
    }
    Ok(())
}

/// Who reads leaves an urgent byte out, so framing with one in it is other framing.
#[test]
fn an_urgent_byte_hides_no_request() -> Result<()> {
    let hidden = format!("\r\n{}", get("/admin/x"));
    let chunk = format!("00\r\n{hidden}{}\r\n0\r\n\r\n", "x".repeat(0x100 - hidden.len()));
    for shape in [NATIVE, SHORTCUT] {
        let mut bed = Bed::new("urgent", shape, ALL)?;
        bed.record_requests()?;
        apply(&bed, "policy.yaml", &no_admin())?;
        let mut client = Client::start(&bed.client)?;
        client.connect(WEB)?;
        let head = "POST /fine HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(client.send("plain", head)?, "sent");
        assert_eq!(client.send("urgent", "1")?, "sent");
        client.send("plain", &chunk)?;
        client.glimpse()?;
        client.glimpse()?;
        assert_not_asked(&bed, "admin")?;
    }
    Ok(())
}
