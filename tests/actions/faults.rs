use std::time::{Duration, Instant};

use anyhow::Result;

use crate::scene::Scene;

fn rule(path: &str, fault: &str) -> String {
    format!(
        "- match: [{{uri: {{prefix: {path}}}}}]\n  fault: {fault}\n  \
         headers: {{response: {{set: {{x-route: set}}}}}}\n  \
         route: [{{destination: {{host: web, subset: v1}}}}]\n"
    )
}

#[test]
fn aborts_are_answers_that_no_endpoint_gives() -> Result<()> {
    let rules = [
        rule("/first/0/http/", "{abort: {httpStatus: 418, percentage: {value: 100}}}"),
        rule(
            "/first/0/teapot/",
            "{delay: {fixedDelay: 1ms, percentage: {value: 100}}, \
             abort: {httpStatus: 418, percentage: {value: 100}}}",
        ),
        rule("/first/0/default/", "{abort: {httpStatus: 503}}"),
        rule("/first/0/unavailable/", "{abort: {httpStatus: 503, percentage: {value: 100}}}"),
        rule("/first/0/never/", "{abort: {httpStatus: 503, percentage: {value: 0}}}"),
        rule("/first/0/half/", "{abort: {httpStatus: 503, percentage: {value: 50}}}"),
        rule("/first/0/grpc/", "{abort: {grpcStatus: UNAVAILABLE, percentage: {value: 100}}}"),
    ];
    let scene = Scene::new("abort", &rules.concat())?;
    let mut raw = scene.connect()?;
    let v1 = &scene.bed.v1;
    for (key, status) in [("http", 418), ("unavailable", 503), ("grpc", 503)] {
        let answer = raw.get("web", &format!("/first/0/{key}/x"), &[])?;
        assert_eq!((answer.status, answer.body.as_str()), (status, "fault filter abort"), "{key}");
        assert_eq!(scene.count(v1, key)?, 0, "{key}");
    }
    // who says nothing of a share means none
    for key in ["never", "default"] {
        assert_eq!(raw.get("web", &format!("/first/0/{key}/x"), &[])?.status, 200, "{key}");
    }
    // who speaks gRPC is told in gRPC (not by the kernel, to whom HTTP/1.1 is never gRPC)
    for (key, wanted) in [("grpc", "14"), ("teapot", "2")] {
        let kind = "content-type: application/grpc";
        let answer = raw.get("web", &format!("/first/0/{key}/x"), &[kind])?;
        let told = answer.headers.get("grpc-status").map(String::as_str);
        assert_eq!((answer.status, told), (200, Some(wanted)), "{key}: {answer:?}");
        assert_eq!(answer.headers["grpc-message"], "fault filter abort");
        assert_eq!(answer.headers["content-type"], "application/grpc");
        assert_eq!(scene.count(v1, key)?, 0, "{key}");
    }
    // a body is taken away
    let text = "POST /first/0/http/x HTTP/1.1\r\nHost: web\r\nContent-Length: 3\r\n\r\nabc";
    assert_eq!(raw.request(text)?.status, 418);
    let mut aborted = 0;
    for _ in 0..200 {
        match raw.get("web", "/first/0/half/x", &[])?.status {
            503 => aborted += 1,
            status => assert_eq!(status, 200),
        }
    }
    // five standard deviations
    assert!((65..=135).contains(&aborted), "{aborted} of 200 requests were aborted");
    assert_eq!(scene.count(v1, "half")?, 200 - aborted);
    Ok(())
}

#[test]
fn delays_come_before_everything_else() -> Result<()> {
    const DELAY: Duration = Duration::from_millis(300);
    let delay = |percent| format!("delay: {{fixedDelay: 300ms, percentage: {{value: {percent}}}}}");
    let abort = "abort: {httpStatus: 418, percentage: {value: 100}}";
    let rules = [
        rule("/first/0/all/", &format!("{{{}}}", delay(100))),
        rule("/first/0/some/", &format!("{{{}}}", delay(25))),
        rule("/first/0/both/", &format!("{{{}, {abort}}}", delay(100))),
        "- timeout: 10s\n  route: [{destination: {host: web, subset: v1}}]\n".to_owned(),
    ];
    let scene = Scene::new("delay", &rules.concat())?;
    let mut raw = scene.connect()?;
    let mut time = |path: &str| -> Result<(u16, Duration)> {
        let began = Instant::now();
        Ok((raw.get("web", path, &[])?.status, began.elapsed()))
    };
    let (status, took) = time("/first/0/all/x")?;
    assert!(status == 200 && took >= DELAY, "{status} {took:?}");
    let (status, took) = time("/first/0/both/x")?;
    assert!(status == 418 && took >= DELAY, "{status} {took:?}");
    assert_eq!(scene.count(&scene.bed.v1, "both")?, 0);
    let mut delayed = 0;
    for _ in 0..40 {
        let (status, took) = time("/first/0/some/x")?;
        assert_eq!(status, 200);
        delayed += u32::from(took >= DELAY);
    }
    // five standard deviations, and more above because the machine may be slow by itself
    assert!((1..=30).contains(&delayed), "{delayed} of 40 requests were delayed");
    // one that is delayed holds up no other connection
    let mut waiting = scene.connect()?;
    waiting.send("GET /first/0/all/x HTTP/1.1\r\nHost: web\r\n\r\n")?;
    let began = Instant::now();
    assert_eq!(time("/x")?.0, 200);
    assert_eq!(waiting.response()?.status, 200);
    assert!(began.elapsed() < Duration::from_secs(5));
    Ok(())
}
