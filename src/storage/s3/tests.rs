//! What the variables say, without a server. With servers: `tests/pool/storage_s3.rs` and `storage_setup.rs`.

use super::*;
use crate::storage::Store;

const KEYS: [(&str, &str); 2] = [("AWS_ACCESS_KEY_ID", "key"), ("AWS_SECRET_ACCESS_KEY", "hunter2")];

fn opened(options: &StoreOptions, variables: &[(&str, &str)]) -> Result<Store, String> {
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Store::open_with(options, variables).map_err(|error| error.to_string())
}

fn error(variables: &[(&str, &str)]) -> String {
    opened(&StoreOptions::new("s3://pool"), variables).unwrap_err()
}

#[test]
fn an_endpoint_that_is_no_url_of_http_is_refused_by_name() {
    for (name, value, said) in [
        ("AWS_ENDPOINT_URL", "localhost:9000", "write http://localhost:9000"),
        ("AWS_ENDPOINT_URL", "s3", "write http://s3"),
        ("AWS_ENDPOINT_URL_S3", "127.0.0.1:9000", "write http://127.0.0.1:9000"),
        ("AWS_ENDPOINT", "ftp://store", "no http:// or https:// URL"),
        ("AWS_ENDPOINT_URL", "http://", "empty host"),
        ("AWS_ENDPOINT_URL", "http://store:port", "invalid port"),
        ("AWS_ENDPOINT_URL", "http://store/?a=b", "query"),
        ("AWS_ENDPOINT_URL", "http://key:hunter2@store", "do not belong"),
    ] {
        let said_is = error(&[KEYS[0], KEYS[1], (name, value)]);
        assert!(said_is.starts_with(&format!("{name}: ")) && said_is.contains(said), "{value}: {said_is}");
        assert!(!said_is.contains("hunter2"), "{said_is}");
    }
    let mut options = StoreOptions::new("s3://pool");
    options.public_url = Some("pictures.example".into());
    let public = opened(&options, &KEYS).unwrap_err();
    assert!(
        public.starts_with("--store-public-url: ") && public.contains("write http://pictures.example"),
        "{public}"
    );
}

#[test]
fn an_endpoint_without_tls_needs_no_second_word_and_may_be_forbidden() {
    let http = ("AWS_ENDPOINT_URL", "http://store:9000/");
    for allowed in [&[][..], &[("AWS_ALLOW_HTTP", "true")], &[("AWS_ALLOW_HTTP", "")]] {
        let variables = [&KEYS[..], &[http], allowed].concat();
        let store = opened(&StoreOptions::new("s3://pool/a"), &variables).unwrap();
        assert_eq!(store.location(), "s3://pool/a at http://store:9000");
    }
    let said = error(&[KEYS[0], KEYS[1], http, ("AWS_ALLOW_HTTP", "false")]);
    assert!(said.starts_with("AWS_ALLOW_HTTP: ") && said.contains("http://store:9000"), "{said}");
}

#[test]
fn a_value_that_no_client_can_be_built_with_is_told_by_its_name() {
    for (name, value) in [
        ("AWS_ALLOW_HTTP", "maybe"),
        ("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "2"),
        ("AWS_SKIP_SIGNATURE", "perhaps"),
        ("AWS_TIMEOUT", "soon"),
    ] {
        let said = error(&[KEYS[0], KEYS[1], (name, value)]);
        assert!(said.starts_with(&format!("{name}: ")) && said.contains(value), "{said}");
    }
}

#[test]
fn keys_that_are_missing_are_named() {
    let (endpoint, none) = (
        ("AWS_ENDPOINT_URL", "http://store:9000"),
        "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are not set",
    );
    for (variables, said) in [
        (&[KEYS[0]][..], "AWS_SECRET_ACCESS_KEY is not set"),
        (&[KEYS[1]], "AWS_ACCESS_KEY_ID is not set"),
        (&[KEYS[0], ("AWS_SECRET_ACCESS_KEY", "")], "AWS_SECRET_ACCESS_KEY is not set"),
        (&[endpoint], none),
        (&[("AWS_EC2_METADATA_DISABLED", "true")], none),
        (&[("AWS_WEB_IDENTITY_TOKEN_FILE", "/token")], "AWS_ROLE_ARN is not set"),
        (
            &[("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://x")],
            "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE is not set",
        ),
    ] {
        let message = error(variables);
        assert!(message.starts_with(said), "{variables:?}: {message}");
        assert!(!message.contains("hunter2"), "{message}");
    }
}

#[test]
fn whoever_has_only_a_profile_is_told_that_it_is_not_read() {
    let endpoint = ("AWS_ENDPOINT_URL", "http://store:9000");
    let named = error(&[endpoint, ("AWS_PROFILE", "prod")]);
    assert!(
        named.contains("profiles") && named.contains("export-credentials --profile prod --format env"),
        "{named}"
    );
    let home = tempfile::tempdir().unwrap();
    let there = ("HOME", home.path().to_str().unwrap());
    assert!(!error(&[endpoint, there]).contains("profiles"), "there is none");
    std::fs::create_dir(home.path().join(".aws")).unwrap();
    std::fs::write(home.path().join(".aws/credentials"), "[default]\naws_access_key_id = a\n").unwrap();
    let kept = error(&[endpoint, there]);
    assert!(kept.contains("profiles") && kept.contains("export-credentials --format env"), "{kept}");
}

#[tokio::test]
async fn the_bucket_is_that_of_the_url_and_white_space_around_a_value_is_none_of_it() {
    let variables =
        [("AWS_ACCESS_KEY_ID", "key\n"), ("AWS_SECRET_ACCESS_KEY", " secret\r\n"), ("AWS_BUCKET", "another")];
    let store = opened(&StoreOptions::new("s3://pool"), &variables).unwrap();
    let Backend::S3(s3) = store.backend() else { panic!("S3") };
    assert_eq!(s3.bucket, "pool");
    let url = store.url(&crate::storage::Key::Check).await.unwrap();
    assert!(url.contains("/pool/store-check.txt") && url.contains("Credential=key%2F"), "{url}");
}

#[test]
fn a_proxy_is_named_where_requests_may_go_through_it() {
    let of = |endpoint: &str, set: &[&str]| {
        let environment = set.iter().map(|name| ((*name).to_owned(), "http://proxy".to_owned())).collect();
        proxy(&environment, Some(&endpoint.parse().unwrap()))
    };
    assert_eq!(of("http://store:9000", &["HTTP_PROXY"]), Some("HTTP_PROXY"));
    assert_eq!(of("http://store:9000", &["HTTPS_PROXY"]), None);
    assert_eq!(of("https://store", &["https_proxy", "HTTP_PROXY"]), Some("https_proxy"));
    for here in ["http://localhost:9000", "http://127.0.0.2:9000", "http://[::1]:9000"] {
        assert_eq!(of(here, &["HTTP_PROXY", "ALL_PROXY"]), None, "{here}");
    }
}
