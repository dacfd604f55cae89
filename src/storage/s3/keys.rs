//! Who signs requests: keys, a role that the environment names, or a role of this machine.

use std::path::Path;

use url::Url;

use super::{Environment, is_yes};
use crate::storage::StorageError;

/// Hosts of AWS end in one of these.
const AWS: [&str; 3] = [".amazonaws.com", ".amazonaws.com.cn", ".api.aws"];
const BOTH: &str = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are";

/// Where keys come from.
pub(in crate::storage) enum Keys {
    /// The environment says it.
    Said,
    /// Perhaps from the role that the machine has in AWS. If it has none, this is what to do.
    OfThisMachine {
        /// A sentence for whoever set up the process.
        advice: String,
    },
}

/// No keys are set.
pub(in crate::storage) fn no_keys(advice: String) -> StorageError {
    StorageError::NoCredentials { missing: BOTH.into(), advice }
}

/// Finds out what there is.
///
/// # Errors
/// [`StorageError::NoCredentials`] names what is missing.
pub(super) fn find(environment: &Environment, endpoint: Option<&Url>) -> Result<Keys, StorageError> {
    let is_set = |name: &str| environment.contains_key(name);
    let is_on = |name: &str| environment.get(name).is_some_and(|value| is_yes(value));
    let lacks = |name: &str, beside: &str| {
        let advice = format!("{beside} is set, and is nothing without it");
        Err(StorageError::NoCredentials { missing: format!("{name} is"), advice })
    };
    if is_on("AWS_SKIP_SIGNATURE") {
        return Ok(Keys::Said);
    }
    match (is_set("AWS_ACCESS_KEY_ID"), is_set("AWS_SECRET_ACCESS_KEY")) {
        (true, true) => return Ok(Keys::Said),
        (true, false) => return lacks("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"),
        (false, true) => return lacks("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
        (false, false) => {}
    }
    if is_set("AWS_WEB_IDENTITY_TOKEN_FILE") {
        return if is_set("AWS_ROLE_ARN") {
            Ok(Keys::Said)
        } else {
            lacks("AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE")
        };
    }
    if is_set("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI") {
        return Ok(Keys::Said);
    }
    if is_set("AWS_CONTAINER_CREDENTIALS_FULL_URI") {
        let token = "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE";
        return if is_set(token) {
            Ok(Keys::Said)
        } else {
            lacks(token, "AWS_CONTAINER_CREDENTIALS_FULL_URI")
        };
    }
    let advice = advice(environment);
    let elsewhere = endpoint.is_some_and(|url| !is_aws(url)) && !is_set("AWS_METADATA_ENDPOINT");
    if elsewhere || is_on("AWS_EC2_METADATA_DISABLED") {
        return Err(no_keys(advice));
    }
    Ok(Keys::OfThisMachine { advice })
}

fn is_aws(endpoint: &Url) -> bool {
    endpoint.host_str().is_some_and(|host| AWS.iter().any(|end| host.ends_with(end)))
}

/// What to do where there are no keys. Profiles are the usual reason: the AWS tools read them.
fn advice(environment: &Environment) -> String {
    let named = environment.get("AWS_PROFILE").map(|name| format!(" --profile {name}"));
    let kept = environment.get("HOME").is_some_and(|home| {
        ["credentials", "config"].iter().any(|file| Path::new(home).join(".aws").join(file).is_file())
    });
    match (named, kept) {
        (None, false) => "set them, or AWS_SKIP_SIGNATURE=true for a store that asks for no signature".into(),
        (profile, _) => format!(
            "profiles (AWS_PROFILE and the files in ~/.aws) are not read: set them, for example by `eval \"$(aws configure \
             export-credentials{} --format env)\"`",
            profile.unwrap_or_default()
        ),
    }
}
