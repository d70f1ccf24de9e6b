//! Requests: each meets its fault, if one was ordered, and otherwise the S3 service.

use crate::faults::{Faults, Kind};
use crate::keys::KeyRing;
use crate::record::Record;
use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use s3s::service::{S3Service, S3ServiceBuilder};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::net::TcpListener;
use tokio::sync::Mutex;

type Failed = Box<dyn std::error::Error + Send + Sync>;
type Answer = Response<UnsyncBoxBody<Bytes, Failed>>;

#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) keys: KeyRing,
    pub(crate) faults: Faults,
    pub(crate) record: Record,
    service: S3Service,
    root: PathBuf,
    /// The service looks and then writes; S3 does both at once.
    compares: Arc<Mutex<()>>,
}

impl Server {
    pub(crate) fn new(root: &Path) -> Result<Self, Failed> {
        let fs = s3s_fs::FileSystem::new(root).map_err(|e| format!("{} cannot be served: {e:?}", root.display()))?;
        let keys = KeyRing::default();
        let mut service = S3ServiceBuilder::new(fs);
        service.set_auth(keys.clone());
        let (faults, record) = (Faults::default(), Record::default());
        Ok(Self { keys, faults, record, service: service.build(), root: root.to_owned(), compares: Arc::default() })
    }

    pub(crate) async fn listen(self, listener: TcpListener) {
        while let Ok((stream, _)) = listener.accept().await {
            let server = self.clone();
            tokio::spawn(async move {
                let service = service_fn(move |request| server.clone().answer(request));
                // A connection that breaks is the caller's affair, or was ordered.
                let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            });
        }
    }

    async fn answer(self, request: Request<Incoming>) -> Result<Answer, Failed> {
        let (parts, body) = request.into_parts();
        let line = format!("{} {}", parts.method, parts.uri);
        let fault = self.faults.take(&line);
        let has_body = !body.is_end_stream();
        match fault {
            Some(Kind::Slow(pause)) => tokio::time::sleep(pause).await,
            Some(Kind::Refuse(status)) => {
                self.record.keep(&parts, status);
                let code = if status == 503 { "SlowDown" } else { "AccessDenied" };
                return Ok(refusal(status, code));
            }
            Some(Kind::Die(bytes)) if has_body => {
                self.record.keep(&parts, 0);
                let mut body = Cut { inner: body, left: bytes };
                while let Some(Ok(_)) = body.frame().await {}
                return Err("died, as was ordered".into());
            }
            _ => {}
        }
        // The service would make the directory of a bucket that is not there.
        let bucket = parts.uri.path().split('/').nth(1).unwrap_or_default();
        if !bucket.is_empty() && !self.root.join(bucket).is_dir() {
            self.record.keep(&parts, 404);
            return Ok(refusal(404, "NoSuchBucket"));
        }
        // The service takes an upload that is no more for another user's.
        let upload = parts.uri.query().unwrap_or_default().split('&').find_map(|pair| pair.strip_prefix("uploadId="));
        if parts.method == http::Method::DELETE && upload.is_some_and(|id| !self.root.join(format!(".upload-{id}.json")).exists()) {
            self.record.keep(&parts, 404);
            return Ok(refusal(404, "NoSuchUpload"));
        }
        let compares = [http::header::IF_NONE_MATCH, http::header::IF_MATCH].iter().any(|name| parts.headers.contains_key(name));
        let alone = if compares { Some(self.compares.lock().await) } else { None };
        let request = Request::from_parts(parts.clone(), s3s::Body::from(body));
        let response = self.service.call(request).await.map_err(|e| format!("{e:?}"))?;
        drop(alone);
        if let Some(Kind::Late(pause)) = fault {
            tokio::time::sleep(pause).await;
        }
        if fault == Some(Kind::Lose) {
            self.record.keep(&parts, 0);
            return Err("lost, as was ordered".into());
        }
        self.record.keep(&parts, response.status().as_u16());
        Ok(match fault {
            Some(Kind::Die(bytes)) => response.map(|inner| Cut { inner, left: bytes }.boxed_unsync()),
            _ => response.map(|body| body.map_err(Into::into).boxed_unsync()),
        })
    }
}

fn refusal(status: u16, code: &str) -> Answer {
    let text = format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>as was ordered</Message></Error>");
    let mut answer = Response::new(Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync());
    *answer.status_mut() = http::StatusCode::from_u16(status).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    answer
}

/// A body that fails after some bytes.
struct Cut<B> {
    inner: B,
    left: u64,
}

impl<B: Body<Data = Bytes> + Unpin> Body for Cut<B>
where
    B::Error: Into<Failed>,
{
    type Data = Bytes;
    type Error = Failed;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failed>>> {
        if self.left == 0 {
            return Poll::Ready(Some(Err("died, as was ordered".into())));
        }
        let frame = std::task::ready!(Pin::new(&mut self.inner).poll_frame(context));
        Poll::Ready(frame.map(|frame| {
            let mut data = frame.map_err(Into::into)?.into_data().map_err(|_| "no data")?;
            data.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
            self.left -= data.len() as u64;
            Ok(Frame::data(data))
        }))
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.inner.size_hint()
    }
}
