//! actix-web with one channel per client and a broadcaster that goes over them, as its examples
//! have it: lines of standard input are events.

use actix_web::web::{Bytes, Data};
use actix_web::{App, HttpResponse, HttpServer, web};
use futures_util::StreamExt;
use std::convert::Infallible;
use std::sync::Mutex;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// Events that may wait for one client: those of the largest burst that is measured, and some.
const QUEUE: usize = 1024;

type Clients = Mutex<Vec<mpsc::Sender<Bytes>>>;

async fn events(clients: Data<Clients>) -> HttpResponse {
    let (sender, receiver) = mpsc::channel(QUEUE);
    clients.lock().expect("nobody panics").push(sender);
    HttpResponse::Ok()
        .content_type("text/event-stream")
        .insert_header(("Cache-Control", "no-cache"))
        .streaming(ReceiverStream::new(receiver).map(Ok::<Bytes, Infallible>))
}

async fn publish(clients: Data<Clients>) {
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let mut id = 0;
    while let Ok(Some(line)) = lines.next_line().await {
        id += 1;
        let frame = Bytes::from(format!("id: {id}\nevent: session-output\ndata: {line}\n\n"));
        // A client whose queue is full is dropped: waiting for it would stop all the others.
        let sent = |client: &mut mpsc::Sender<Bytes>| client.try_send(frame.clone()).is_ok();
        clients.lock().expect("nobody panics").retain_mut(sent);
    }
}

#[actix_web::main]
async fn main() -> std::io::Result<()> {
    let clients = Data::new(Clients::default());
    let shared = clients.clone();
    let server = HttpServer::new(move || {
        App::new().app_data(shared.clone()).route("/events", web::get().to(events))
    });
    let server = server.workers(1).max_connections(100_000).bind(("127.0.0.1", 0))?;
    println!("listening on http://{}", server.addrs()[0]);
    actix_web::rt::spawn(publish(clients));
    server.run().await
}
