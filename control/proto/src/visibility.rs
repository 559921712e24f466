//! Who may know of whom: the one place that decides whether a local instance may learn that a service exists.

use crate::names::ServiceName;

/// May an instance of the service `caller` know of `service`? Services of one application namespace and one service
/// namespace, a *tenant*, may (thesis 3.3).
#[must_use]
pub fn may_know(caller: &ServiceName, service: &ServiceName) -> bool {
    let ([_, app_ns, _, service_ns], [_, other_app_ns, _, other_service_ns]) =
        (caller.parts(), service.parts());
    app_ns.eq_ignore_ascii_case(other_app_ns) && service_ns.eq_ignore_ascii_case(other_service_ns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_is_both_namespaces_whatever_the_case() {
        let name = |text: &str| ServiceName::parse(text).unwrap();
        let caller = name("shop.Tum.client.prod");
        assert!(may_know(&caller, &name("shop.tum.web.PROD")));
        assert!(may_know(&caller, &name("other.tum.web.prod")));
        assert!(!may_know(&caller, &name("shop.lmu.web.prod")));
        assert!(!may_know(&caller, &name("shop.tum.web.test")));
    }
}
