package transparent

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// Ports of the real servers.
const (
	redisPort      = "6379" // opaque by default
	redisOtherPort = "6380" // not so
	mariadbPort    = "3310" // not opaque: its server speaks first
	tlsPort        = "8443"
)

// folder makes a folder of the world's, owned by a user.
func (w *world) folder(name, owner string) (dir string, uid uint32) {
	w.t.Helper()
	dir = filepath.Join(w.dir, name)
	err := os.Mkdir(dir, 0o755)
	if err == nil && owner != "root" {
		var u *user.User
		if u, err = user.Lookup(owner); err == nil {
			id, _ := strconv.Atoi(u.Uid)
			uid = uint32(id)
			err = os.Chown(dir, id, -1)
		}
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return dir, uid
}

// startRedis runs redis-server on two ports.
func (h *host) startRedis() {
	for _, port := range []string{redisPort, redisOtherPort} {
		dir, _ := h.w.folder("redis-"+port, "root")
		h.start(0, "redis-server", "--port", port, "--bind", "*", "-::*", "--protected-mode", "no", "--save", "", "--dir", dir).
			await(h.w.t, "Ready to accept connections")
	}
}

// startMariaDB runs a MariaDB with a fresh data folder, which lets in a user
// "weir" without a password.
func (h *host) startMariaDB() {
	t := h.w.t
	t.Helper()
	dir, uid := h.w.folder("mariadb", "nobody")
	out, err := exec.Command("mariadb-install-db", "--no-defaults", "--user=nobody", "--datadir="+dir+"/data",
		"--auth-root-authentication-method=normal", "--skip-test-db").CombinedOutput()
	if err != nil {
		t.Fatalf("cannot prepare MariaDB: %v\n%s\nmake test-deps installs it", err, out)
	}
	file := filepath.Join(dir, "users.sql")
	sql := "CREATE USER weir@'%' IDENTIFIED BY '';\nGRANT ALL ON *.* TO weir@'%';\n"
	if err := os.WriteFile(file, []byte(sql), 0o644); err != nil {
		t.Fatal(err)
	}
	h.start(uid, "mariadbd", "--no-defaults", "--datadir="+dir+"/data", "--socket="+dir+"/socket", "--pid-file="+dir+"/pid",
		"--port="+mariadbPort, "--bind-address=*", "--init-file="+file, "--skip-name-resolve", "--innodb-buffer-pool-size=8M",
		"--skip-log-bin").await(t, "ready for connections")
}

// startNginx runs an nginx that answers over TLS with the name it was asked
// for.
func (h *host) startNginx() {
	t := h.w.t
	t.Helper()
	dir, _ := h.w.folder("nginx", "root")
	writeCertificate(t, dir)
	conf := fmt.Sprintf(`
daemon off; master_process off; pid %[1]s/pid; error_log stderr notice;
events {}
http {
  access_log off;
  client_body_temp_path %[1]s/body; proxy_temp_path %[1]s/proxy; fastcgi_temp_path %[1]s/fastcgi;
  uwsgi_temp_path %[1]s/uwsgi; scgi_temp_path %[1]s/scgi;
  server {
    listen %[2]s ssl; listen [::]:%[2]s ssl;
    ssl_certificate %[1]s/cert.pem; ssl_certificate_key %[1]s/key.pem;
    location / { return 200 "nginx for $ssl_server_name\n"; }
  }
}`, dir, tlsPort)
	if err := os.WriteFile(dir+"/nginx.conf", []byte(conf), 0o644); err != nil {
		t.Fatal(err)
	}
	// One process: a worker would outlive a test that is killed.
	h.start(0, "nginx", "-p", dir, "-e", "stderr", "-c", dir+"/nginx.conf").await(t, `using the "epoll" event method`)
}

// writeCertificate writes a certificate of the test's own.
func writeCertificate(t *testing.T, dir string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "shop.example"}, DNSNames: []string{"shop.example"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{
		"cert.pem": {Type: "CERTIFICATE", Bytes: cert}, "key.pem": {Type: "PRIVATE KEY", Bytes: pkcs8},
	} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
