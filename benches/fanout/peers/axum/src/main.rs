//! axum's SSE over tokio's broadcast channel, as its documentation shows it: lines of standard
//! input are events.

use axum::Router;
use axum::response::sse::{Event, Sse};
use axum::routing::get;
use futures_util::{Stream, StreamExt};
use std::convert::Infallible;
use std::sync::Arc;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;

type Message = (u64, Arc<str>);

fn stream(
    receiver: broadcast::Receiver<Message>,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    // A reader that lags behind is told so by the stream, which drops that: the usual filter.
    let events = BroadcastStream::new(receiver).filter_map(async |message| {
        let (id, data) = message.ok()?;
        Some(Ok(Event::default().id(id.to_string()).event("session-output").data(&*data)))
    });
    Sse::new(events.boxed())
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let (sender, _) = broadcast::channel::<Message>(1024);
    let subscribe = sender.clone();
    let app = Router::new().route("/events", get(async move || stream(subscribe.subscribe())));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    println!("listening on http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move { axum::serve(listener, app).await });
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let mut id = 0;
    while let Ok(Some(line)) = lines.next_line().await {
        id += 1;
        let _ = sender.send((id, line.into())); // Nobody listens: nothing to tell.
    }
}
