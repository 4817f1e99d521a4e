package config

import (
	"net/netip"
	"time"
)

// Env is everything that comes from the environment. The field tags are the
// reference: the variable (env), its default (envDefault) and what it means
// (doc); EnvReference lists them, and the README's table is made from that.
//
// A Secret can also come from a file: NATS_TOKEN_FILE names a file whose
// content, without its last line break, is NATS_TOKEN.
type Env struct {
	NATS     NATSEnv
	Membrane MembraneEnv
	Bridge   BridgeEnv
	Log      LogEnv
}

// NATSEnv says how to reach NATS.
type NATSEnv struct {
	URL      string `env:"NATS_URL" envDefault:"nats://127.0.0.1:4222" doc:"servers, separated by commas, or 'embedded' for a server in this process with its data under BRIDGE_DATA_DIR"`
	Creds    string `env:"NATS_CREDS" doc:"path of a credentials file"`
	NKey     string `env:"NATS_NKEY" doc:"path of an NKey seed file"`
	Token    Secret `env:"NATS_TOKEN" doc:"token"`
	User     string `env:"NATS_USER" doc:"user name"`
	Password Secret `env:"NATS_PASSWORD" doc:"password of NATS_USER"`
	TLSCA    string `env:"NATS_TLS_CA" doc:"path of the certificates that the server's is checked against"`
	TLSCert  string `env:"NATS_TLS_CERT" doc:"path of the client certificate"`
	TLSKey   string `env:"NATS_TLS_KEY" doc:"path of the client certificate's key"`
	JSDomain string `env:"NATS_JS_DOMAIN" doc:"JetStream domain that holds the bridge's streams, where it is not that of the server, such as the hub's behind a leaf node"`
}

// Embedded says whether the server runs in this process.
func (n NATSEnv) Embedded() bool { return n.URL == "embedded" }

// MembraneEnv says how to reach Membrane and as whom: Token, or a JWT minted
// from the workspace's key and secret for a tenant.
type MembraneEnv struct {
	APIURL          string        `env:"MEMBRANE_API_URL" envDefault:"https://api.getmembrane.com" doc:"where Membrane's API is"`
	Token           Secret        `env:"MEMBRANE_TOKEN" doc:"personal access token, client token or JWT; or else set the next three"`
	WorkspaceKey    string        `env:"MEMBRANE_WORKSPACE_KEY" doc:"workspace that tokens are minted for"`
	WorkspaceSecret Secret        `env:"MEMBRANE_WORKSPACE_SECRET" doc:"secret that tokens are signed with"`
	TenantKey       string        `env:"MEMBRANE_TENANT_KEY" doc:"tenant that tokens are minted for"`
	Connection      string        `env:"MEMBRANE_CONNECTION" doc:"id or key of the connection for routes that name none"`
	RunLimit        time.Duration `env:"MEMBRANE_RUN_LIMIT" envDefault:"60s" doc:"the longest Membrane lets a run take; client timeout and reconcile wait derive from it"`
}

// BridgeEnv is the bridge's own part.
type BridgeEnv struct {
	Name    string `env:"BRIDGE_NAME" envDefault:"bridge8x8" doc:"logical name, the same for all replicas; part of the source of results"`
	Config  string `env:"BRIDGE_CONFIG" envDefault:"bridge.yaml" doc:"path of the route file"`
	DataDir string `env:"BRIDGE_DATA_DIR" envDefault:"./data" doc:"folder of the embedded server's data"`
	// Prefix is written in capitals in the names of streams.
	Prefix string `env:"BRIDGE_PREFIX" envDefault:"bridge" doc:"first part of our subjects and, in capitals, of our streams; lets several bridges share a cluster"`
	// HTTPAddr is empty if the public listener is off.
	HTTPAddr    string        `env:"BRIDGE_HTTP_ADDR" envDefault:"127.0.0.1:8080" doc:"public listener, host:port; set but empty turns it off"`
	AdminAddr   string        `env:"BRIDGE_ADMIN_ADDR" envDefault:"127.0.0.1:9090" doc:"admin listener, host:port"`
	NATSAddr    string        `env:"BRIDGE_NATS_ADDR" doc:"with NATS_URL=embedded: also listen here, so that other programs can join"`
	Concurrency int           `env:"BRIDGE_CONCURRENCY" envDefault:"64" doc:"runs in flight per replica, 1 to 4096"`
	AckWait     time.Duration `env:"BRIDGE_ACK_WAIT" envDefault:"30s" doc:"ack clock of an event in hand; how soon a dead replica's work is taken over"`
	Grace       time.Duration `env:"BRIDGE_GRACE" envDefault:"25s" doc:"time to finish what runs after SIGTERM"`
	Replicas    int           `env:"BRIDGE_REPLICAS" envDefault:"1" doc:"JetStream replicas: 1, 3 or 5"`
	Retention   time.Duration `env:"BRIDGE_RETENTION" envDefault:"72h" doc:"how long final ledger records are kept; our streams keep events for less"`
	Commands    bool          `env:"BRIDGE_COMMANDS" envDefault:"false" doc:"accept commands: events of type com.8x8.run.<action key>, whose data is the action's input, and requests on bridge.run.<action key>"`
	// SinkURL is BRIDGE_SINK_URL, or else K_SINK.
	SinkURL string `env:"BRIDGE_SINK_URL" doc:"http or https address that results and 8x8's events are posted to as well, as CloudEvents"`
	// SinkToken is sent to the sink as a bearer token.
	SinkToken    Secret `env:"BRIDGE_SINK_TOKEN" doc:"bearer token that is shown to the sink"`
	SinkEncoding string `env:"BRIDGE_SINK_ENCODING" envDefault:"binary" doc:"content mode of the CloudEvents that are posted to the sink: binary or structured"`
	// SinkExtensions are the extensions of K_CE_OVERRIDES.
	SinkExtensions map[string]string

	// HTTPTokens are BRIDGE_HTTP_TOKEN and BRIDGE_HTTP_TOKEN_2, those that are set:
	// the bearer tokens that POST /events accepts.
	HTTPTokens []Secret
	// AllowUnauthenticated permits a listener beyond loopback without authentication.
	AllowUnauthenticated bool `env:"BRIDGE_ALLOW_UNAUTHENTICATED" envDefault:"false" doc:"permit listening beyond loopback without authentication"`
	// AdminAllowUnauthenticated permits that of the admin listener alone.
	AdminAllowUnauthenticated bool `env:"BRIDGE_ADMIN_ALLOW_UNAUTHENTICATED" envDefault:"false" doc:"permit that of the admin listener alone, for Prometheus and probes that come from elsewhere"`
	// HTTPOrigins are exact WebHook-Request-Origin values, or "*"; empty grants none.
	HTTPOrigins []string `env:"BRIDGE_HTTP_ORIGINS" doc:"origins that the webhook handshake (OPTIONS /events) grants, separated by commas, or *; none if empty"`
	// HTTPRate is in requests per minute; 0 is no limit.
	HTTPRate int `env:"BRIDGE_HTTP_RATE" envDefault:"0" doc:"requests per minute that POST /events and each declared webhook take, and that the webhook handshake allows; 0 is no limit"`
	// ClientRate is in requests per minute; 0 is no limit.
	ClientRate int `env:"BRIDGE_HTTP_CLIENT_RATE" envDefault:"60000" doc:"requests per minute that the public listener takes from one client, by its address (IPv6: by its /64); a tenth of it at once. Clients on this machine are not limited; 0 is no limit"`
	// Connections bounds those that are open at a time.
	Connections int `env:"BRIDGE_HTTP_CONNECTIONS" envDefault:"256" doc:"connections that the public listener keeps at a time; at that many, whoever holds the most gives one up"`
	// Proxies, of BRIDGE_HTTP_PROXIES, are trusted to say in X-Forwarded-For whom they speak for.
	Proxies []netip.Prefix
	// TLSCert and TLSKey turn TLS on; TLSClientCA asks clients for a certificate, which
	// they may do without where nothing demands one.
	TLSCert     string `env:"BRIDGE_TLS_CERT" doc:"path of the public listener's certificate, with its chain; turns TLS on. Read again when it changes, as the next two are"`
	TLSKey      string `env:"BRIDGE_TLS_KEY" doc:"path of the certificate's key"`
	TLSClientCA string `env:"BRIDGE_TLS_CLIENT_CA" doc:"path of the certificates that clients' certificates are checked against"`
	// TLSClientNames are those that may post to /events, or "*" for any.
	TLSClientNames []string `env:"BRIDGE_TLS_CLIENT_NAMES" doc:"names in client certificates that POST /events accepts, separated by commas, or *; empty asks for no certificate there"`
	// MaxEvent is in bytes. NATS's own limit is 1 MiB by default; the rest is for headers.
	MaxEvent int `env:"BRIDGE_MAX_EVENT" envDefault:"1015808" doc:"largest event taken over HTTP, in bytes, at least 65536; NATS's max_payload must leave room for it and its headers"`
	// WebhookSecret is the {secret} of /webhooks/8x8/{secret}.
	WebhookSecret Secret `env:"BRIDGE_WEBHOOK_SECRET" doc:"last part of the address /webhooks/8x8/{secret} that 8x8 was given"`
	// WebhookAuth is a whole Authorization value, such as "Bearer …".
	WebhookAuth Secret `env:"BRIDGE_WEBHOOK_AUTHORIZATION" doc:"Authorization value that 8x8 was told to send with its webhooks"`
	// Encoding is "structured" or "binary".
	Encoding string `env:"BRIDGE_ENCODING" envDefault:"structured" doc:"content mode of the CloudEvents we publish on NATS: structured or binary"`
}

// LogEnv says how to log.
type LogEnv struct {
	Level  string `env:"LOG_LEVEL" envDefault:"info" doc:"debug, info, warn or error"`
	Format string `env:"LOG_FORMAT" doc:"text or json; if empty, text on a terminal and else json"`
}

// variables is what the environment is parsed into: Env, and the variables
// that become part of one of its fields.
type variables struct {
	NATS     NATSEnv
	Membrane MembraneEnv
	Bridge   BridgeEnv
	Extra    struct {
		KSink       string   `env:"K_SINK" doc:"the same as BRIDGE_SINK_URL, as Knative's SinkBinding sets it"`
		Overrides   string   `env:"K_CE_OVERRIDES" doc:"extensions that every event gets on its way to the sink, as Knative's SinkBinding sets them: {\"extensions\": {\"name\": \"value\"}}"`
		HTTPToken   Secret   `env:"BRIDGE_HTTP_TOKEN" doc:"bearer token that POST /events accepts"`
		HTTPProxies []string `env:"BRIDGE_HTTP_PROXIES" doc:"addresses and networks of proxies whose X-Forwarded-For is believed, separated by commas"`
		HTTPToken2  Secret   `env:"BRIDGE_HTTP_TOKEN_2" doc:"second bearer token, so that one can be rotated"`
	}
	Log LogEnv
}
