//! Requests to S3 that failed, counted where they are sent: one that is tried again and succeeds shows nowhere else.

use std::{future::Future, pin::Pin, sync::Arc};

use object_store::{
    ClientOptions, Result,
    client::{
        HttpClient, HttpConnector, HttpError, HttpRequest, HttpResponse, HttpService, ReqwestConnector,
    },
};

use crate::storage::failures::Failures;

/// Makes the usual clients, and counts what fails.
#[derive(Debug)]
pub(super) struct Counted(pub Arc<Failures>);

impl HttpConnector for Counted {
    fn connect(&self, options: &ClientOptions) -> Result<HttpClient> {
        let client = ReqwestConnector::default().connect(options)?;
        Ok(HttpClient::new(Client { client, failures: self.0.clone() }))
    }
}

#[derive(Debug)]
struct Client {
    client: HttpClient,
    failures: Arc<Failures>,
}

// The trait's own macro is not needed for one function.
impl HttpService for Client {
    fn call<'a, 'b>(
        &'a self,
        request: HttpRequest,
    ) -> Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(async move {
            let answer = self.client.execute(request).await;
            let failed = match &answer {
                Ok(answer) => {
                    answer.status().is_server_error() || [408, 429].contains(&answer.status().as_u16())
                }
                Err(_) => true,
            };
            if failed {
                self.failures.count();
            }
            answer
        })
    }
}
