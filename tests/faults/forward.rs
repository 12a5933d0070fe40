//! The way from this machine into the pod's network.

use std::sync::Arc;

use crate::pod::Pod;

/// A port of this machine that leads to the agent in the pod, and what keeps it open.
pub async fn forward(pod: Arc<Pod>) -> (u16, tokio::task::JoinHandle<()>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let task = tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let pod = pod.clone();
            tokio::spawn(async move {
                let far = tokio::task::spawn_blocking(move || pod.connect(8025)).await;
                let Ok(Ok(far)) = far else { return };
                // A socket of the standard library blocks until it is told otherwise.
                let far = far.set_nonblocking(true).and_then(|()| tokio::net::TcpStream::from_std(far));
                let Ok(mut far) = far else { return };
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    (port, task)
}
