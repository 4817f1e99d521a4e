package bridgetest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// CA issues certificates for a test.
type CA struct {
	PEM  []byte
	Pool *x509.CertPool
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// NewCA makes one that nobody else trusts.
func NewCA(t testing.TB) *CA {
	t.Helper()
	ca := &CA{Pool: x509.NewCertPool()}
	ca.cert, ca.key, ca.PEM = certify(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: "test CA"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, nil, nil)
	ca.Pool.AddCert(ca.cert)
	return ca
}

// Issue makes a certificate for 127.0.0.1, or as change says, and its key, in PEM.
func (ca *CA) Issue(t testing.TB, change func(*x509.Certificate)) (cert, key []byte) {
	t.Helper()
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: "test"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if change != nil {
		change(template)
	}
	_, private, cert := certify(t, template, ca.cert, ca.key)
	der, err := x509.MarshalECPrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return cert, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})
}

// Client is a client's certificate, ready for tls.Config.
func (ca *CA) Client(t testing.TB, change func(*x509.Certificate)) tls.Certificate {
	t.Helper()
	pair, err := tls.X509KeyPair(ca.Issue(t, func(c *x509.Certificate) {
		c.IPAddresses = nil
		if change != nil {
			change(c)
		}
	}))
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

func certify(t testing.TB, template, by *x509.Certificate, byKey *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if template.SerialNumber, err = rand.Int(rand.Reader, big.NewInt(1<<62)); err != nil {
		t.Fatal(err)
	}
	if template.NotAfter.IsZero() {
		template.NotAfter = time.Now().Add(time.Hour)
	}
	template.NotBefore = template.NotAfter.Add(-2 * time.Hour)
	if by == nil {
		by, byKey = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, by, key.Public(), byKey)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// Mount is a folder of files that change all at once, as Kubernetes mounts a
// Secret: each file is a link through ..data, which is swapped.
type Mount struct {
	t   testing.TB
	dir string
	n   int
}

// NewMount makes one with its first files, by name.
func NewMount(t testing.TB, files map[string]string) *Mount {
	t.Helper()
	m := &Mount{t: t, dir: t.TempDir()}
	m.Swap(files)
	for name := range files {
		if err := os.Symlink(filepath.Join("..data", name), m.Path(name)); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

// Path is where a file is.
func (m *Mount) Path(name string) string { return filepath.Join(m.dir, name) }

// Swap changes all files at once.
func (m *Mount) Swap(files map[string]string) {
	m.t.Helper()
	m.n++
	folder := "..v" + string(rune('a'+m.n))
	check := func(err error) {
		if err != nil {
			m.t.Helper()
			m.t.Fatal(err)
		}
	}
	check(os.Mkdir(filepath.Join(m.dir, folder), 0o700))
	for name, content := range files {
		check(os.WriteFile(filepath.Join(m.dir, folder, name), []byte(content), 0o600))
	}
	check(os.Symlink(folder, filepath.Join(m.dir, "..new")))
	check(os.Rename(filepath.Join(m.dir, "..new"), filepath.Join(m.dir, "..data")))
}
