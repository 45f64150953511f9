//! Settings for Cloud Storage that several services share.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use service::Faults;
use service::cloud::Api;
use service::google::{EndpointUrl, Login};
use service::settings::{Parsed, Variable, VariableKind};

/// Connection to Cloud Storage.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(default)]
pub struct Endpoint {
    /// URL of an emulator, such as `http://localhost:8085`, or of a regional or private endpoint of
    /// Google. Default: Google's usual endpoint. The variable `STORAGE_EMULATOR_HOST` takes
    /// precedence.
    pub endpoint: Option<Parsed<EndpointUrl>>,
    /// Credentials for `endpoint`. The default `anonymous` is for an emulator;
    /// `application_default` is for Google.
    pub credentials: Option<Login>,
}

impl Endpoint {
    /// Variable that sets the endpoint of an emulator, under the key `storage`.
    pub const VARIABLE: Variable = Variable {
        name: "STORAGE_EMULATOR_HOST",
        key: "storage.endpoint",
        kind: VariableKind::EmulatorHost,
    };

    /// Returns the API of these settings.
    #[must_use]
    pub fn api(&self) -> Api {
        Api::new("storage", self.endpoint.as_ref(), self.credentials)
    }

    /// Reports faults in these settings.
    pub fn check(&self, faults: &mut Faults) {
        Login::check("storage", self.endpoint.as_ref(), self.credentials, faults);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_url_or_left_out() {
        let faults = |endpoint: Option<&str>| {
            let mut faults = Faults::default();
            Endpoint { endpoint: endpoint.map(Into::into), credentials: None }.check(&mut faults);
            faults.lines().to_vec()
        };

        for right in [None, Some("http://localhost:8085"), Some("https://storage.example")] {
            assert!(faults(right).is_empty(), "{right:?}");
        }
        assert!(faults(Some("localhost:8085"))[0].starts_with("storage.endpoint: must be a URL"));
    }
}
