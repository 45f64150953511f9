//! Measures how many small messages a second the official client sends through the emulator. Both
//! run in this process: `cargo run --release -p emulator --example throughput`

#![expect(clippy::print_stdout, reason = "for measuring: nobody reads a part of it")]

use std::time::{Duration, Instant};

use emulator::{Emulator, Options};
use google_cloud_auth::credentials::anonymous;
use google_cloud_pubsub::client::{Publisher, Subscriber, SubscriptionAdmin, TopicAdmin};
use google_cloud_pubsub::model::Message;

const MESSAGES: usize = 1_000_000;
const STREAMS: usize = 4;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // An error means that it is installed already.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let emulator = Emulator::start(Options::default()).await?;
    let (url, credentials) = (emulator.url(), anonymous::Builder::new().build());
    let (topic, subscription) =
        ("projects/p/topics/topic", "projects/p/subscriptions/subscription");
    let topics = TopicAdmin::builder().with_endpoint(&url).with_credentials(credentials.clone());
    topics.build().await?.create_topic().set_name(topic).send().await?;
    let admin =
        SubscriptionAdmin::builder().with_endpoint(&url).with_credentials(credentials.clone());
    let admin = admin.build().await?;
    admin.create_subscription().set_name(subscription).set_topic(topic).send().await?;

    let publisher = Publisher::builder(topic)
        .with_endpoint(&url)
        .with_credentials(credentials.clone())
        .set_message_count_threshold(1000)
        .set_delay_threshold(Duration::from_millis(10))
        .build()
        .await?;
    let started = Instant::now();
    for _ in 0..MESSAGES / 100_000 {
        let message = || Message::new().set_data(vec![b'x'; 200]);
        let sent: Vec<_> = (0..100_000).map(|_| publisher.publish(message())).collect();
        publisher.flush().await;
        for sent in sent {
            sent.await?;
        }
    }
    println!("publish      {:>9.0} messages/s", MESSAGES as f64 / started.elapsed().as_secs_f64());

    let subscriber = Subscriber::builder().with_endpoint(&url).with_credentials(credentials);
    let subscriber = subscriber.build().await?;
    let started = Instant::now();
    let mut readers = tokio::task::JoinSet::new();
    for _ in 0..STREAMS {
        let builder = subscriber.subscribe(subscription).set_max_outstanding_messages(20_000);
        let mut stream = builder.build();
        readers.spawn(async move {
            let mut count = 0;
            // Ends when no message arrives for a second: the subscription is empty.
            while let Ok(Some(Ok((_, handler)))) =
                tokio::time::timeout(Duration::from_secs(1), stream.next()).await
            {
                handler.ack();
                count += 1;
            }
            count
        });
    }
    let received: usize = readers.join_all().await.into_iter().sum();
    let elapsed = started.elapsed() - Duration::from_secs(1);
    println!("receive+ack  {:>9.0} messages/s", received as f64 / elapsed.as_secs_f64());
    anyhow::ensure!(received >= MESSAGES, "{received} of {MESSAGES} came");
    Ok(())
}
