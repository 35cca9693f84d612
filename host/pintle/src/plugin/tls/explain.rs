//! TLS failures as sentences for operators.

use std::io::{self, ErrorKind};

use rustls::{AlertDescription, CertificateError, ClientConfig, Error};

use crate::plugin::grants::Target;

/// What went wrong in a handshake with `target`, and what to do.
pub(crate) fn explain_handshake(
    target: &Target,
    config: &ClientConfig,
    error: &io::Error,
) -> String {
    match tls_error(error) {
        Some(Error::InvalidCertificate(fault)) => explain_certificate(target, fault),
        Some(Error::AlertReceived(AlertDescription::NoApplicationProtocol)) => format!(
            "{target} refused the TLS handshake: it speaks none of the protocols offered ({}); \
             set tls.alpn",
            offered(config)
        ),
        Some(Error::AlertReceived(alert)) => explain_alert(target, *alert),
        Some(Error::InvalidMessage(_)) => format!(
            "{target} does not answer in TLS; is tls set for a port that speaks plain text?"
        ),
        Some(Error::PeerIncompatible(fault)) => format!(
            "{target} and this host share no TLS version or cipher (TLS 1.2 and 1.3): {fault:?}"
        ),
        Some(other) => format!("TLS with {target} failed: {other}"),
        None if is_cut(error) => {
            format!("{target} closed the connection during the TLS handshake; does it speak TLS?")
        }
        None => format!("TLS with {target} failed: {error}"),
    }
}

/// What went wrong on a connection to `target` after the handshake.
pub(crate) fn explain_stream(target: &Target, error: &io::Error) -> String {
    match tls_error(error) {
        Some(Error::AlertReceived(alert)) => explain_alert(target, *alert),
        Some(other) => format!("TLS with {target} failed: {other}"),
        None if error.kind() == ErrorKind::UnexpectedEof => format!(
            "{target} ended the connection without TLS close-notify; what arrived may be cut short"
        ),
        None => format!("connection to {target} failed: {error}"),
    }
}

fn explain_certificate(target: &Target, fault: &CertificateError) -> String {
    match fault {
        // A foreign authority of the same name as a trusted one shows as a bad signature.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => format!(
            "the certificate of {target} is not signed by an authority that this backend trusts; \
             set tls.ca to the one that signed it"
        ),
        CertificateError::Expired => {
            format!("the certificate of {target} has expired; renew it on the server")
        }
        CertificateError::ExpiredContext { time, not_after } => format!(
            "the certificate of {target} expired {} ago; renew it on the server",
            span(time.as_secs().saturating_sub(not_after.as_secs()))
        ),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => format!(
            "the certificate of {target} is not valid yet; check the clocks of server and host"
        ),
        CertificateError::NotValidForName => format!(
            "the certificate of {target} is for another name; \
             set tls.server_name if this is the right server"
        ),
        CertificateError::NotValidForNameContext { expected, presented } => format!(
            "the certificate of {target} is not for {} but for {}; \
             set tls.server_name if this is the right server",
            expected.to_str(),
            presented.join(", ")
        ),
        CertificateError::Revoked => format!("the certificate of {target} is revoked"),
        other => format!("the certificate of {target} cannot be accepted: {other}"),
    }
}

fn explain_alert(target: &Target, alert: AlertDescription) -> String {
    match alert {
        AlertDescription::CertificateRequired => format!(
            "{target} refused the connection: it requires a client certificate; \
             set tls.cert and tls.key"
        ),
        AlertDescription::UnknownCA
        | AlertDescription::BadCertificate
        | AlertDescription::CertificateUnknown
        | AlertDescription::CertificateExpired
        | AlertDescription::CertificateRevoked
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::AccessDenied => format!(
            "{target} refused the client certificate ({alert:?}); check tls.cert and tls.key"
        ),
        alert => format!("{target} refused the TLS handshake ({alert:?})"),
    }
}

fn tls_error(error: &io::Error) -> Option<&Error> {
    error.get_ref()?.downcast_ref()
}

fn is_cut(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
    )
}

fn offered(config: &ClientConfig) -> String {
    let names = config.alpn_protocols.iter().map(|name| String::from_utf8_lossy(name));
    names.collect::<Vec<_>>().join(", ")
}

fn span(seconds: u64) -> String {
    match seconds {
        0..=7_199 => format!("{} min", seconds / 60),
        7_200..=172_799 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}
