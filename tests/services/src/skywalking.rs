//! SkyWalking's server (OAP), with its data in memory.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use crate::{Artifact, Error, Port, Result, Single, single};

/// How SkyWalking is started.
#[derive(Debug, Clone, Default)]
pub struct SkyWalkingOptions {
    /// The token that reporters over gRPC have to show.
    pub token: Option<String>,
}

/// A SkyWalking process; stopped when dropped.
#[derive(Debug)]
pub struct SkyWalking {
    /// The process.
    pub server: Single,
    rest: Port,
    grpc: Port,
}

impl SkyWalking {
    /// Starts it and waits until it serves. Fetches it first where it is missing.
    ///
    /// # Errors
    /// When it cannot be fetched, or is not ready in time; the error shows its log.
    pub async fn start(options: &SkyWalkingOptions) -> Result<Self> {
        let jars = Artifact::SkyWalking101.fetch_in_background().await?.join("lib");
        let (rest, grpc) = (Port::free()?, Port::free()?);
        let folder = single::folder("skywalking")?;
        let settings = folder.path().join("config");
        write_settings(&settings)?;
        let mut command = Command::new("java");
        command
            .args(["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp"])
            .arg(format!("{}:{}/*", settings.display(), jars.display()))
            .arg("org.apache.skywalking.oap.server.starter.OAPServerStartUp")
            .env("SW_CORE_REST_PORT", rest.number().to_string())
            .env("SW_CORE_GRPC_PORT", grpc.number().to_string());
        if let Some(token) = &options.token {
            command.env("SW_AUTHENTICATION", token);
        }
        let ready = (rest.address(), "/healthcheck");
        let server = Single::start("skywalking", command, ready, folder).await?;
        Ok(Self { server, rest, grpc })
    }

    /// Where segments are taken over gRPC.
    pub fn grpc(&self) -> SocketAddr {
        self.grpc.address()
    }

    /// Where segments are taken over HTTP, and GraphQL is answered.
    pub fn rest(&self) -> SocketAddr {
        self.rest.address()
    }
}

fn write_settings(folder: &Path) -> Result<()> {
    // It has to exist, although there is nothing in it.
    let rules = folder.join("log-mal-rules");
    fs::create_dir_all(&rules).map_err(Error::file("create", &rules))?;
    for (name, text) in FILES {
        let path = folder.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(Error::file("create", parent))?;
        }
        fs::write(&path, text).map_err(Error::file("write", &path))?;
    }
    Ok(())
}

/// All that it reads. No value may be empty: write `""` or `{}`.
const FILES: [(&str, &str); 12] = [
    ("application.yml", APPLICATION),
    ("oal/core.oal", METRICS),
    ("oal/disable.oal", "// none\n"),
    ("service-apdex-threshold.yml", "default: 500\n"),
    ("gateways.yml", "gateways: []\n"),
    ("endpoint-name-grouping.yml", "grouping: []\n"),
    ("trace-sampling-policy-settings.yml", "default:\n  rate: 10000\n  duration: -1\n"),
    ("component-libraries.yml", COMPONENTS),
    (
        "lal/default.yaml",
        "rules:\n  - name: default\n    layer: GENERAL\n    dsl: |\n      filter {\n        sink {\n        }\n      }\n",
    ),
    (
        "ui-initialized-templates/menu.yaml",
        "menus:\n  - title: A\n    icon: a\n    i18nKey: a\n    menus:\n      - {title: S, layer: GENERAL, i18nKey: s}\n",
    ),
    ("log4j2.xml", LOG),
    ("log-mal-rules/.keep", ""),
];

/// Persists every two seconds and forgets what it looked up after one, so that tests need not wait.
const APPLICATION: &str = r#"
cluster: {selector: standalone, standalone: {}}
core:
  selector: default
  default:
    role: Mixed
    restHost: 127.0.0.1
    restPort: "${SW_CORE_REST_PORT:12800}"
    restContextPath: /
    gRPCHost: 127.0.0.1
    gRPCPort: "${SW_CORE_GRPC_PORT:11800}"
    downsampling: [Hour, Day]
    topNReportPeriod: 10
    persistentPeriod: 2
    serviceCacheRefreshInterval: 1
    searchableTracesTags: "http.method,http.status_code,url,http.host"
    enableHierarchy: false
    enableEndpointNameGroupingByOpenapi: false
storage:
  selector: h2
  h2:
    properties:
      jdbcUrl: "jdbc:h2:mem:oap;DB_CLOSE_DELAY=-1;DATABASE_TO_UPPER=FALSE"
      dataSource.user: sa
    metadataQueryMaxSize: 5000
    maxSizeOfBatchSql: 100
    asyncBatchPersistentPoolSize: 1
agent-analyzer:
  selector: default
  default:
    traceSamplingPolicySettingsFile: trace-sampling-policy-settings.yml
    slowDBAccessThreshold: "default:200"
    segmentStatusAnalysisStrategy: FROM_SPAN_STATUS
    noUpstreamRealAddressAgents: "6000,9000"
    meterAnalyzerActiveFiles: ""
    slowCacheReadThreshold: "default:20"
    slowCacheWriteThreshold: "default:20"
log-analyzer: {selector: default, default: {lalFiles: default, malFiles: ""}}
receiver-sharing-server:
  selector: default
  default: {restPort: 0, gRPCPort: 0, authentication: "${SW_AUTHENTICATION:}"}
receiver-register: {selector: default, default: {}}
receiver-trace: {selector: default, default: {}}
receiver-meter: {selector: default, default: {}}
receiver-log: {selector: default, default: {}}
configuration-discovery: {selector: default, default: {disableMessageDigest: false}}
query: {selector: graphql, graphql: {maxQueryComplexity: 3000}}
telemetry: {selector: none, none: {}}
configuration: {selector: none, none: {}}
health-checker: {selector: default, default: {checkIntervalSeconds: 1}}
ai-pipeline:
  selector: default
  default: {uriRecognitionServerAddr: "", uriRecognitionServerPort: 17128}
"#;

const METRICS: &str = "\
service_cpm = from(Service.*).cpm();
service_sla = from(Service.*).percent(status == true);
service_resp_time = from(Service.latency).longAvg();
service_relation_client_cpm = from(ServiceRelation.*).filter(detectPoint == DetectPoint.CLIENT).cpm();
service_relation_server_cpm = from(ServiceRelation.*).filter(detectPoint == DetectPoint.SERVER).cpm();
service_instance_relation_client_cpm = from(ServiceInstanceRelation.*).filter(detectPoint == DetectPoint.CLIENT).cpm();
service_instance_relation_server_cpm = from(ServiceInstanceRelation.*).filter(detectPoint == DetectPoint.SERVER).cpm();
service_instance_cpm = from(ServiceInstance.*).cpm();
endpoint_cpm = from(Endpoint.*).cpm();
endpoint_relation_cpm = from(EndpointRelation.*).filter(detectPoint == DetectPoint.SERVER).cpm();
";

/// Ids that stand in no such list read back as `Unknown`.
const COMPONENTS: &str = "\
Unknown: {id: 0, language: All}
HttpClient: {id: 2, languages: Java}
GRPC: {id: 23, languages: All}
Component-Server-Mappings: {}
";

const LOG: &str = r#"<Configuration><Appenders><Console name="C"><PatternLayout
pattern="%d %c{1} %-5p %m%n"/></Console></Appenders><Loggers><Root level="INFO"><AppenderRef
ref="C"/></Root></Loggers></Configuration>"#;
