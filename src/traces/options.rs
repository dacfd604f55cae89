//! The flags of traces, by the names that other programs have for their variables.

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use url::Url;

use super::{EXPORT, Export, Value, export::Exporter};

/// Why no traces are exported.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// A header that is none.
    #[error("--otlp-headers: NAME=VALUE is expected, several separated by commas")]
    Headers,
    /// The client that sends.
    #[error("--otlp-endpoint: {0}")]
    Client(#[source] reqwest::Error),
}

/// Where traces go.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Traces")]
pub struct TraceOptions {
    /// Where traces of jobs are sent (OTLP over HTTP, protobuf; `/v1/traces` is put behind it); none: nowhere
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_name = "URL", value_parser = parse_endpoint)]
    pub otlp_endpoint: Option<Url>,
    /// Headers of what is sent there, as in `authorization=Bearer x`, several separated by commas
    #[arg(long, env = "OTEL_EXPORTER_OTLP_HEADERS", value_name = "NAME=VALUE", hide_env_values = true)]
    pub otlp_headers: Option<String>,
    /// The share of traces that are recorded, of those that begin here, 0 to 1. Of others their beginning decides
    #[arg(long, env = "SD_TRACE_RATIO", default_value = "1", value_parser = parse_ratio)]
    pub trace_ratio: f64,
}

impl TraceOptions {
    /// Begins to export, if there is an address, what this process (`service`, of this name) records.
    ///
    /// # Errors
    /// A header that is none, or no client that sends.
    pub fn start(&self, service: &str, instance: &str) -> Result<(), TraceError> {
        let Some(endpoint) = &self.otlp_endpoint else { return Ok(()) };
        let mut url = endpoint.clone();
        url.set_path(&format!("{}/v1/traces", endpoint.path().trim_end_matches('/')));
        let headers = headers(self.otlp_headers.as_deref().unwrap_or_default()).ok_or(TraceError::Headers)?;
        let resource = vec![
            ("service.name", Value::from(service)),
            ("service.instance.id", Value::from(instance)),
            ("service.version", Value::from(env!("CARGO_PKG_VERSION"))),
        ];
        let exporter = Exporter::start(url, headers, resource).map_err(TraceError::Client)?;
        if EXPORT.set(Export { exporter, ratio: self.trace_ratio }).is_err() {
            tracing::debug!("traces were exported before");
        }
        Ok(())
    }
}

/// Headers as they are listed, or none of them. What is percent-encoded in a value stays so.
fn headers(text: &str) -> Option<HeaderMap> {
    let mut headers = HeaderMap::new();
    for pair in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=')?;
        let name: HeaderName = name.trim().parse().ok()?;
        let mut value: HeaderValue = value.trim().parse().ok()?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    Some(headers)
}

/// Paths are put behind it.
fn parse_endpoint(text: &str) -> Result<Url, String> {
    let says = "an address such as http://127.0.0.1:4318 is expected";
    let url = Url::parse(text).map_err(|error| format!("{error}; {says}"))?;
    match (url.scheme(), url.query(), url.fragment()) {
        ("http" | "https", None, None) if url.username().is_empty() && url.password().is_none() => Ok(url),
        _ => Err(says.into()),
    }
}

fn parse_ratio(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(ratio) if (0.0..=1.0).contains(&ratio) => Ok(ratio),
        _ => Err("0 to 1".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_listed_with_commas_and_are_no_ones_business() {
        let read = headers("authorization=Bearer a=b, x-team = images").unwrap();
        assert_eq!(read["authorization"], "Bearer a=b");
        assert!(read["authorization"].is_sensitive());
        assert_eq!(read["x-team"], "images");
        assert!(headers("").unwrap().is_empty());
        for bad in ["authorization", "a b=c", "a=b\nc"] {
            assert!(headers(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn an_endpoint_is_an_address_and_a_ratio_a_share() {
        for good in ["http://127.0.0.1:4318", "https://otel.example/pool/"] {
            assert!(parse_endpoint(good).is_ok(), "{good}");
        }
        for bad in ["", "127.0.0.1:4318", "grpc://a", "http://u:p@a", "http://a?b"] {
            assert!(parse_endpoint(bad).is_err(), "{bad}");
        }
        for (text, ratio) in
            [("0", Some(0.0)), ("0.1", Some(0.1)), ("1", Some(1.0)), ("2", None), ("NaN", None)]
        {
            assert_eq!(parse_ratio(text).ok(), ratio);
        }
    }
}
