// Command netd connects the pods of the test cluster's nodes. It runs once per node, lists
// the nodes every few seconds and from their pod ranges keeps up to date:
//   - the CNI configuration of its own node (ptp + host-local),
//   - one route per other node,
//   - one rule that masquerades what pods send outside the cluster.
//
// It needs no Kubernetes client library: one GET request is all it sends.
package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

const (
	accountDir = "/var/run/secrets/kubernetes.io/serviceaccount/"
	cniFile    = "/etc/cni/net.d/10-dlcloud.conflist"
	cniConfig  = `{
  "cniVersion": "1.0.0",
  "name": "dlcloud",
  "plugins": [
    {"type": "ptp", "ipMasq": false, "mtu": %d,
     "ipam": {"type": "host-local", "dataDir": "/run/cni-ipam", "routes": [{"dst": "0.0.0.0/0"}],
              "ranges": [[{"subnet": %q}]]}},
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}
`
)

type nodeList struct {
	Items []struct {
		Metadata struct{ Name string }
		Spec     struct{ PodCIDR string }
		Status   struct {
			Addresses []struct{ Type, Address string }
		}
	}
}

func list() (*nodeList, error) {
	ca, err := os.ReadFile(accountDir + "ca.crt")
	if err != nil {
		return nil, err
	}
	token, err := os.ReadFile(accountDir + "token") // rotated, so read every time
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}
	defer transport.CloseIdleConnections()
	client := &http.Client{Timeout: 10 * time.Second, Transport: transport}
	host := net.JoinHostPort(os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT"))
	request, err := http.NewRequest("GET", "https://"+host+"/api/v1/nodes", nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Authorization", "Bearer "+string(token))
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("list nodes: %s", response.Status)
	}
	nodes := new(nodeList)
	return nodes, json.NewDecoder(response.Body).Decode(nodes)
}

func run(command string) error {
	args := strings.Fields(command)
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", command, err, bytes.TrimSpace(out))
	}
	return nil
}

// writeCNI replaces the file in one step: containerd reads it as soon as it appears.
func writeCNI(podCIDR string) error {
	mtu := 1500
	if link, err := net.InterfaceByName("eth0"); err == nil {
		mtu = link.MTU
	}
	want := fmt.Sprintf(cniConfig, mtu, podCIDR)
	if have, err := os.ReadFile(cniFile); err == nil && string(have) == want {
		return nil
	}
	temporary := filepath.Join(filepath.Dir(cniFile), ".dlcloud.tmp")
	if err := os.WriteFile(temporary, []byte(want), 0o644); err != nil {
		return err
	}
	return os.Rename(temporary, cniFile)
}

func sync(self, podSubnet string) error {
	nodes, err := list()
	if err != nil {
		return err
	}
	for _, node := range nodes.Items {
		if node.Spec.PodCIDR == "" {
			continue
		}
		if node.Metadata.Name == self {
			if err := writeCNI(node.Spec.PodCIDR); err != nil {
				return err
			}
			continue
		}
		for _, address := range node.Status.Addresses {
			if address.Type == "InternalIP" {
				if err := run("ip route replace " + node.Spec.PodCIDR + " via " + address.Address); err != nil {
					return err
				}
			}
		}
	}
	rule := " POSTROUTING -s " + podSubnet + " ! -d " + podSubnet + " -j MASQUERADE"
	if run("iptables -w -t nat -C"+rule) != nil {
		return run("iptables -w -t nat -A" + rule)
	}
	return nil
}

func main() {
	for {
		if err := sync(os.Getenv("NODE_NAME"), os.Getenv("POD_SUBNET")); err != nil {
			log.Print(err)
			time.Sleep(time.Second)
			continue
		}
		time.Sleep(5 * time.Second)
	}
}
