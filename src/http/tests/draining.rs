//! Stopping: what is idle goes at once, what runs is waited for, and nothing is left.

use super::*;

#[test]
fn silent_idle_and_half_spoken_connections_do_not_hold_up_the_end() {
    let mut server = Server::start(patient());
    let mut clients: Vec<Client> = (0..200).map(|_| server.connect()).collect();
    for (index, client) in clients.iter_mut().enumerate() {
        match index % 3 {
            0 => {}
            1 => client.send("GET /hello HTTP/1.1\r\nHo"),
            _ => {
                client.get("/hello");
                client.response();
            }
        }
    }
    server.wait_until("all are open", |totals| totals.connections == 200);
    let begun = Instant::now();
    assert_eq!(server.shut_down(), Drained::Cleanly);
    assert!(begun.elapsed() < Duration::from_secs(1), "took {:?}", begun.elapsed());
}

#[test]
fn a_running_request_is_answered_and_newcomers_too_before_the_server_ends() {
    let mut server = Server::start(patient());
    let mut client = server.connect();
    client.get("/slow");
    server.wait_until("it runs", |totals| totals.running == 1);
    server.stop.shutdown.cancel();
    std::thread::sleep(Duration::from_millis(100));
    let mut newcomer = server.connect();
    newcomer.get("/hello");
    let (head, body) = newcomer.response();
    assert!(head.to_ascii_lowercase().contains("connection: close") && body == "hello", "{head}");
    assert_eq!(newcomer.rest(), "");
    let (head, body) = client.response();
    assert!(head.to_ascii_lowercase().contains("connection: close") && body == "slow", "{head}");
    assert_eq!(client.rest(), "");
    assert_eq!(server.outcome(), Drained::Cleanly);
    assert!(TcpStream::connect(server.address).is_err(), "the listener is closed");
}

#[test]
fn an_answer_under_way_is_sent_to_its_end() {
    let mut server = Server::start(patient());
    let mut client = server.connect();
    client.send("GET /flood HTTP/1.0\r\n\r\n");
    client.head();
    server.stop.shutdown.cancel();
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(client.rest().len(), 1024 * (64 << 10));
    assert_eq!(server.outcome(), Drained::Cleanly);
}

#[test]
fn a_request_that_does_not_end_is_broken_off_at_the_deadline() {
    let mut server = Server::start(Config { drain_timeout: Duration::from_millis(300), ..patient() });
    let (mut first, mut second) = (server.connect(), server.connect());
    first.get("/never");
    second.get("/never");
    server.wait_until("both run", |totals| totals.running == 2);
    let begun = Instant::now();
    assert_eq!(server.shut_down(), Drained::DeadlinePassed { running: 2 });
    assert!(begun.elapsed() >= Duration::from_millis(300));
    assert_eq!(first.rest(), "");
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let mut server = Server::start(patient());
    let mut client = server.connect();
    client.get("/never");
    server.wait_until("it runs", |totals| totals.running == 1);
    server.stop.shutdown.cancel();
    std::thread::sleep(Duration::from_millis(50));
    let begun = Instant::now();
    server.stop.abort.cancel();
    assert_eq!(server.outcome(), Drained::Aborted { running: 1 });
    assert!(begun.elapsed() < Duration::from_secs(1));
}
