//! A client of the service: allocates under a lease, writes and reads, is refused once, rolls a transaction back, and frees.
//!
//! ```text
//! cargo run                                                            starts the service; in another terminal:
//! cargo run --example http_client -- http://127.0.0.1:3000
//! ```

use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use std::error::Error;
use std::time::Duration;

/// Times that a request is sent at most.
const TRIES: u32 = 6;
/// Pauses grow up to this.
const PAUSE_MAX: Duration = Duration::from_secs(5);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let base = std::env::args().nth(1).unwrap_or_else(|| "http://127.0.0.1:3000".to_owned());
    let maas = Maas { base, client: Client::builder().timeout(Duration::from_secs(60)).build()? };

    // If this program dies, the block is gone after a minute.
    let block = maas.allocate(&json!({"size_bytes": 100_000, "lease_seconds": 60, "tag": "example"})).await?;
    let id = block["id"].as_str().ok_or("an allocation has an id")?;
    println!("allocated {id}, {} bytes for {}", block["actual_size_bytes"], block["size_bytes"]);

    let data = format!("/allocate/{id}/data");
    good(send(maas.call(Method::PUT, &data).body("kept in memory")).await?).await?;
    let answer = good(send(maas.call(Method::GET, &data).header("range", "bytes=0-13")).await?).await?;
    let version =
        answer.headers().get("etag").and_then(|value| value.to_str().ok()).unwrap_or("?").to_owned();
    println!("read back {} bytes, version {version}", answer.bytes().await?.len());

    match maas.allocate(&json!({"size_bytes": 1_u64 << 40})).await {
        Err(refusal) => println!("refused: {refusal}"),
        Ok(block) => println!("this was not to be expected: {block}"),
    }

    // Many small blocks that end together, whatever becomes of this program.
    let arena = maas.post("/arenas", &json!({"estimated_size_bytes": 10_000, "lease_seconds": 60})).await?;
    let arena = format!("/arenas/{}", arena["id"].as_str().ok_or("an arena has an id")?);
    for _ in 0..3 {
        maas.post(&format!("{arena}/allocate"), &json!({"size_bytes": 100})).await?;
    }
    let freed = maas.post(&format!("{arena}/rollback"), &json!({})).await?;
    println!("rolled back: {} blocks, {} bytes", freed["freed_allocations"], freed["freed_bytes"]);

    let path = format!("/allocate/{id}");
    let first = send(maas.call(Method::DELETE, &path)).await?.status();
    let second = send(maas.call(Method::DELETE, &path)).await?.status();
    println!("freed, and freed again: {}, then {}", first.as_u16(), second.as_u16());
    Ok(())
}

/// The service. Cloning it is cheap, and every task may have one: connections are shared and kept.
#[derive(Clone)]
struct Maas {
    base: String,
    client: Client,
}

impl Maas {
    fn call(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.base))
    }

    async fn post(&self, path: &str, body: &Value) -> Result<Value, Box<dyn Error>> {
        let request = self.call(Method::POST, path).header("content-type", "application/json");
        let answer = good(send(request.body(body.to_string())).await?).await?;
        Ok(serde_json::from_slice(&answer.bytes().await?)?)
    }

    async fn allocate(&self, options: &Value) -> Result<Value, Box<dyn Error>> {
        // Made once: however often the request is sent, it is one allocation.
        let key = format!("{:032x}", fastrand::u128(..));
        let request = self.call(Method::POST, "/allocate").header("idempotency-key", key);
        let request = request.header("content-type", "application/json").body(options.to_string());
        let answer = good(send(request).await?).await?;
        Ok(serde_json::from_slice(&answer.bytes().await?)?)
    }
}

/// Sends it until it is answered by anything but "not now".
async fn send(request: RequestBuilder) -> Result<Response, Box<dyn Error>> {
    let mut pause = Duration::from_millis(100);
    let mut tries = 1;
    loop {
        let attempt = request.try_clone().ok_or("the body is in memory")?.send().await;
        let wait = match &attempt {
            Ok(answer) if is_not_now(answer.status()) => retry_after(answer).unwrap_or(pause),
            Err(error) if error.is_connect() || error.is_timeout() || error.is_request() => pause,
            _ => return Ok(attempt?),
        };
        if tries == TRIES {
            return Ok(attempt?);
        }
        tokio::time::sleep(wait).await;
        (tries, pause) = (tries + 1, (2 * pause).min(PAUSE_MAX));
    }
}

fn is_not_now(status: StatusCode) -> bool {
    [StatusCode::SERVICE_UNAVAILABLE, StatusCode::INSUFFICIENT_STORAGE].contains(&status)
}

fn retry_after(answer: &Response) -> Option<Duration> {
    let seconds = answer.headers().get("retry-after")?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// The answer, or what it says is wrong.
async fn good(answer: Response) -> Result<Response, Box<dyn Error>> {
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    let problem: Value = serde_json::from_slice(&answer.bytes().await?).unwrap_or_default();
    let said = |field: &str| problem[field].as_str().unwrap_or_default().to_owned();
    Err(format!("{} {}: {}", status.as_u16(), said("code"), said("detail")).into())
}
