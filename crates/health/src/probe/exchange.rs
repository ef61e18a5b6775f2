//! Bytes sent over a connection, and bytes expected back: Redis's `PING`, the greeting of SMTP.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{BODY_BYTES, Broken, Failure, contains};

/// Sends, and reads until `expect` has come.
pub(super) async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    send: &[u8],
    expect: &[u8],
) -> Result<(), Broken> {
    if !send.is_empty() {
        stream.write_all(send).await?;
    }
    let mut answer = Vec::with_capacity(1024);
    loop {
        let room = BODY_BYTES - answer.len();
        let read = (&mut *stream)
            .take(room as u64)
            .read_buf(&mut answer)
            .await?;
        // Only what could be new: the rest has been looked at.
        let from = answer.len().saturating_sub(read + expect.len());
        if contains(&answer[from..], expect) {
            return Ok(());
        }
        if read == 0 || answer.len() >= BODY_BYTES {
            return Err(Failure::Unexpected(String::from_utf8_lossy(expect).into_owned()).into());
        }
    }
}
