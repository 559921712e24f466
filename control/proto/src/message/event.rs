//! What orchestrators are told, by MQTT and to a webhook (extension).

use super::table_query::{Revision, ServiceIpEntry};
use serde::{Deserialize, Serialize};

/// A service that ran in the cluster has no instance left anywhere: crashed, or undeployed on purpose.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct NoInstanceLeft {
    /// Of this format: 1. Raised when a field changes its meaning.
    pub version: u32,
    /// `no_instance_left`
    pub event: String,
    /// The same when the event is told again; of one cluster and service, later events have other ones.
    pub id: Revision,
    /// `app.appns.service.servicens`
    pub service: String,
    /// The cluster that says so; each one in which the service ran does.
    pub cluster_id: String,
    pub service_ip_list: Vec<ServiceIpEntry>,
}
