//! The service without sockets: requests in, answers out.

use super::*;
use crate::link::LinkState;
use crate::memory::{self, Heap};
use crate::pool;
use axum::body::Body;
use axum::http::Method;
use axum::http::header::{CONTENT_TYPE, HOST, TRANSFER_ENCODING};
use axum::routing::get;
use http_body_util::BodyExt;
use serde_json::Value;

fn answerer() -> Answerer {
    let memory =
        memory::Config { slab_sizes: vec![1024], max_pool_size: 10_240, ..memory::Config::default() };
    let pool = Pool::new(
        Heap::new(&memory).expect("right"),
        &pool::Config { max_inflight_bytes: 100_000, ..Default::default() },
    );
    let link = || Arc::new(Link::new(LinkState::Off, Now(0)));
    Answerer::new(
        &Config::default(),
        Arc::new(pool),
        Arc::new(Traffic::default()),
        link(),
        link(),
        Now::read(),
    )
}

async fn answer(answerer: &Answerer, request: Request) -> (Response<()>, Value) {
    let arrival = Arrival { now: Now::read(), peer: ([127, 0, 0, 1], 9).into() };
    let (head, body) = answerer.clone().answer(request, arrival).await.into_parts();
    let body = body.collect().await.expect("a body in memory").to_bytes();
    (Response::from_parts(head, ()), serde_json::from_slice(&body).unwrap_or(Value::Null))
}

fn request(method: Method, uri: &str, body: &str) -> Request {
    let request =
        Request::builder().method(method).uri(uri).header(HOST, "t").header(CONTENT_TYPE, "application/json");
    request.body(Body::from(body.to_owned())).expect("a request")
}

#[tokio::test]
async fn a_panic_in_a_handler_is_a_500_and_the_service_goes_on() {
    async fn explode() -> StatusCode {
        panic!("as planned")
    }
    async fn explode_later() -> StatusCode {
        tokio::task::yield_now().await;
        panic!("as planned, after an await")
    }
    let router = Router::new().route("/now", get(explode)).route("/later", get(explode_later));
    let whole = answerer();
    let answerer = Answerer { router, ..whole.clone() };
    for path in ["/now", "/later"] {
        let (head, body) = answer(&answerer, request(Method::GET, path, "")).await;
        assert_eq!((head.status(), &body["code"]), (StatusCode::INTERNAL_SERVER_ERROR, &"internal".into()));
        assert_eq!(body["request_id"], head.headers()["x-request-id"].to_str().expect("printable"));
    }
    let (head, _) = answer(&whole, request(Method::GET, "/livez", "")).await;
    assert_eq!(head.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_body_that_does_not_fit_into_the_inflight_budget_is_refused_and_the_charge_returns() {
    let answerer = answerer();
    let padding = " ".repeat(90_000);
    let body = format!("{padding}{{\"size_bytes\":1}}");
    let held = answerer.api.pool.inflight().charge(50_000).expect("there is room");
    let (head, problem) = answer(&answerer, request(Method::POST, "/allocate", &body)).await;
    assert_eq!((head.status().as_u16(), &problem["code"]), (503, &"inflight-exhausted".into()));
    assert_eq!(head.headers()["retry-after"], "1");
    drop(held);
    let (head, _) = answer(&answerer, request(Method::POST, "/allocate", &body)).await;
    assert_eq!(head.status(), StatusCode::CREATED);
    assert_eq!(answerer.api.pool.inflight().bytes(), 0);
    assert_eq!(
        answerer.api.counters.refused().iter().find(|(code, _)| *code == "inflight-exhausted"),
        Some(&("inflight-exhausted", 1))
    );
}

#[tokio::test]
async fn a_stopping_service_refuses_new_allocations_and_is_not_ready_but_frees() {
    let answerer = answerer();
    let (_, made) = answer(&answerer, request(Method::POST, "/allocate", "{\"size_bytes\":1}")).await;
    answerer.api.stop();
    for (method, uri) in [(Method::POST, "/allocate"), (Method::GET, "/readyz"), (Method::GET, "/health")] {
        let (head, problem) = answer(&answerer, request(method, uri, "{\"size_bytes\":1}")).await;
        assert_eq!((head.status().as_u16(), &problem["code"]), (503, &"stopping".into()), "{uri}");
    }
    let uri = format!("/allocate/{}", made["id"].as_str().expect("an id"));
    let (head, _) = answer(&answerer, request(Method::DELETE, &uri, "")).await;
    assert_eq!(head.status(), StatusCode::NO_CONTENT);
    let (head, _) = answer(&answerer, request(Method::GET, "/livez", "")).await;
    assert_eq!(head.status(), StatusCode::OK);
}

#[tokio::test]
async fn an_http_1_1_request_names_its_host_once() {
    let answerer = answerer();
    for hosts in 0..3 {
        let mut request = Request::builder().uri("/livez").body(Body::empty()).expect("a request");
        for _ in 0..hosts {
            request.headers_mut().append(HOST, HeaderValue::from_static("t"));
        }
        let status = if hosts == 1 { 200 } else { 400 };
        assert_eq!(answer(&answerer, request).await.0.status().as_u16(), status, "{hosts}");
    }
    let request =
        Request::builder().uri("/livez").version(Version::HTTP_10).body(Body::empty()).expect("a request");
    assert_eq!(answer(&answerer, request).await.0.status(), StatusCode::OK, "HTTP/1.0 knew no Host");
}

#[tokio::test]
async fn chunked_is_the_only_transfer_coding_and_stands_once() {
    let answerer = answerer();
    for (codings, status) in
        [(&["chunked"][..], 200), (&["gzip, chunked"], 400), (&["chunked", "chunked"], 400), (&["x"], 400)]
    {
        let mut request = request(Method::GET, "/livez", "");
        for coding in codings {
            request.headers_mut().append(TRANSFER_ENCODING, HeaderValue::from_static(coding));
        }
        assert_eq!(answer(&answerer, request).await.0.status().as_u16(), status, "{codings:?}");
    }
}

/// What a stream has to say at once.
async fn frame_at_once(body: &mut Body) -> Option<String> {
    let polled = poll_fn(|context| Poll::Ready(pin!(body.frame()).poll(context))).await;
    let Poll::Ready(frame) = polled else { return None };
    let bytes = frame.expect("it goes on").expect("it is whole").into_data().expect("it is data");
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[tokio::test(start_paused = true)]
async fn a_level_that_was_entered_and_left_between_two_looks_makes_an_event_of_its_own() {
    let answerer = answerer();
    let request = request(Method::GET, "/pressure/events", "");
    let arrival = Arrival { now: Now::read(), peer: ([127, 0, 0, 1], 9).into() };
    let mut body = answerer.clone().answer(request, arrival).await.into_body();
    assert!(frame_at_once(&mut body).await.is_some(), "one before anything happens");
    assert_eq!(frame_at_once(&mut body).await, None);
    let gauge = answerer.api.pool.gauge();
    for used_bytes in [8192, 0] {
        gauge.observe(used_bytes, 10_240, Now::read());
    }
    let event = frame_at_once(&mut body).await.expect("there were changes");
    assert!(event.contains("\"level\":\"normal\""), "{event:?}");
    assert_eq!(frame_at_once(&mut body).await, None, "and one for both");
}
