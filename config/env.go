package config

import "time"

// Env is everything that comes from the environment (design §5).
type Env struct {
	NATS     NATSEnv
	Membrane MembraneEnv
	Bridge   BridgeEnv
	Log      LogEnv
}

// NATSEnv says how to reach NATS.
type NATSEnv struct {
	URL      string // NATS_URL: comma list, or "embedded"
	Creds    string // NATS_CREDS: path of a credentials file
	NKey     string // NATS_NKEY: path of a seed file
	Token    Secret // NATS_TOKEN
	User     string // NATS_USER
	Password Secret // NATS_PASSWORD
	TLSCA    string // NATS_TLS_CA: path
	TLSCert  string // NATS_TLS_CERT: path
	TLSKey   string // NATS_TLS_KEY: path
}

// Embedded says whether the server runs in this process.
func (n NATSEnv) Embedded() bool { return n.URL == "embedded" }

// MembraneEnv says how to reach Membrane and as whom.
type MembraneEnv struct {
	APIURL          string        // MEMBRANE_API_URL
	Token           Secret        // MEMBRANE_TOKEN
	WorkspaceKey    string        // MEMBRANE_WORKSPACE_KEY
	WorkspaceSecret Secret        // MEMBRANE_WORKSPACE_SECRET
	TenantKey       string        // MEMBRANE_TENANT_KEY
	Connection      string        // MEMBRANE_CONNECTION: id or key
	RunLimit        time.Duration // MEMBRANE_RUN_LIMIT
}

// BridgeEnv is the bridge's own part.
type BridgeEnv struct {
	Name        string        // BRIDGE_NAME
	Config      string        // BRIDGE_CONFIG: path
	DataDir     string        // BRIDGE_DATA_DIR
	Prefix      string        // BRIDGE_PREFIX
	HTTPAddr    string        // BRIDGE_HTTP_ADDR; empty turns the public listener off
	AdminAddr   string        // BRIDGE_ADMIN_ADDR
	NATSAddr    string        // BRIDGE_NATS_ADDR
	Concurrency int           // BRIDGE_CONCURRENCY
	AckWait     time.Duration // BRIDGE_ACK_WAIT
	Grace       time.Duration // BRIDGE_GRACE
	Replicas    int           // BRIDGE_REPLICAS
	Retention   time.Duration // BRIDGE_RETENTION
	Commands    bool          // BRIDGE_COMMANDS
	SinkURL     string        // BRIDGE_SINK_URL or K_SINK

	// HTTPTokens (BRIDGE_HTTP_TOKEN, BRIDGE_HTTP_TOKEN_2) are the bearer tokens that
	// POST /events accepts, two at a time so that one can be rotated.
	HTTPTokens []Secret
	// AllowUnauthenticated (BRIDGE_ALLOW_UNAUTHENTICATED) permits a non-loopback
	// listener without authentication.
	AllowUnauthenticated bool
	// HTTPOrigins (BRIDGE_HTTP_ORIGINS) are the WebHook-Request-Origin values that the
	// OPTIONS handshake grants, or "*"; HTTPRate (BRIDGE_HTTP_RATE) is the
	// WebHook-Allowed-Rate in requests per minute, 0 meaning "*".
	HTTPOrigins []string
	HTTPRate    int
	// MaxEvent (BRIDGE_MAX_EVENT) is the largest event taken over HTTP, in bytes.
	MaxEvent int
	// WebhookSecret (BRIDGE_WEBHOOK_SECRET) is the {secret} of /webhooks/8x8/{secret};
	// WebhookAuth (BRIDGE_WEBHOOK_AUTHORIZATION) the Authorization value that 8x8 was told to send.
	WebhookSecret Secret
	WebhookAuth   Secret
	// Encoding (BRIDGE_ENCODING) is the content mode of what is published: structured or binary.
	Encoding string
}

// LogEnv says how to log.
type LogEnv struct {
	Level  string // LOG_LEVEL: debug, info, warn, error
	Format string // LOG_FORMAT: text or json; empty means text on a terminal, else json
}
