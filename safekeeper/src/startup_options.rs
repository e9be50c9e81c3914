//! Startup options: which timeline a connection names in its startup parameter `options`.

use pq_proto::startup::option_words;
use pq_proto::{ErrorResponse, SqlState, StartupParams};
use wal_types::{ParseIdError, TenantId, TenantTimelineId, TimelineId};

use crate::timeline::Timelines;

/// The timeline that a connection names, which need not exist. A connection that names none gets the only timeline of
/// this safekeeper.
pub(crate) fn timeline_of(
    params: &StartupParams,
    timelines: &Timelines,
) -> Result<TenantTimelineId, ErrorResponse> {
    let refused = |message: String| {
        ErrorResponse::fatal(SqlState::INVALID_PARAMETER_VALUE, message).with_hint(
            "Name it in the connection string: options='-c tenant_id=<32 hex digits> -c timeline_id=<32 hex digits>'.",
        )
    };
    let options = params.get("options").map(|options| options.to_str_lossy()).unwrap_or_default();
    match parse_options(&options).map_err(refused)? {
        (Some(tenant), Some(timeline)) => Ok(TenantTimelineId { tenant, timeline }),
        (None, None) => match timelines.all().as_slice() {
            [(only, _)] => Ok(*only),
            [] => {
                Err(refused("this safekeeper has no timeline yet, and the connection names none".to_owned()))
            }
            several => Err(refused(format!(
                "this safekeeper has {} timelines, and the connection names none",
                several.len()
            ))),
        },
        _ => Err(refused("the connection names only one of tenant_id and timeline_id".to_owned())),
    }
}

/// Tenant and timeline, as far as they are named.
type NamedIds = (Option<TenantId>, Option<TimelineId>);

/// Reads `-c tenant_id=…`, with the `-c` or without, and under the names that older clients use. Other options are
/// skipped: stock clients pass on settings of the primary.
fn parse_options(options: &str) -> Result<NamedIds, String> {
    let mut named: NamedIds = (None, None);
    for word in option_words(options) {
        let word = word.strip_prefix("-c").or(word.strip_prefix("--")).unwrap_or(&word);
        let Some((key, value)) = word.split_once('=') else { continue };
        let bad = |error: ParseIdError| format!("{key}: {error}");
        match key {
            "tenant_id" | "ztenantid" => named.0 = Some(value.parse().map_err(bad)?),
            "timeline_id" | "ztimelineid" => named.1 = Some(value.parse().map_err(bad)?),
            _ => {}
        }
    }
    Ok(named)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TENANT: &str = "cf0480929707ee75372337efaa5ecf96";
    const TIMELINE: &str = "112ded66422aa5e953e5440fa5427ac4";

    #[test]
    fn parse_options_reads_every_form_of_ids() {
        for options in [
            format!("-c tenant_id={TENANT} -c timeline_id={TIMELINE}"),
            format!("-c timeline_id={TIMELINE} tenant_id={TENANT}"),
            format!("-ctenant_id={TENANT} -ctimeline_id={TIMELINE}"),
            format!("ztenantid={TENANT} ztimelineid={TIMELINE}"),
            format!("--tenant_id={TENANT} --timeline_id={TIMELINE} -c log_min_messages=info"),
        ] {
            let named = parse_options(&options);
            let expected = (Some(TENANT.parse().unwrap()), Some(TIMELINE.parse().unwrap()));
            assert_eq!(named, Ok(expected), "{options}");
        }
        assert_eq!(parse_options("-c work_mem=1GB"), Ok((None, None)));
        let error = parse_options("-c tenant_id=xyz").unwrap_err();
        assert!(error.contains("tenant_id: not an identifier"), "{error}");
    }
}
