// health says what the tools of a pipeline make of objects: kstatus (kubectl and everything built on cli-utils), Argo
// CD with the health checks of a ConfigMap argocd-cm, Flux with the healthCheckExprs of a Kustomization.
//
//	health -argocd FILE -flux FILE <LIST
//
// LIST is what `kubectl get -o json` prints. Answers with a JSON array in the same order.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/cli-utils/pkg/kstatus/status"
)

type answer struct {
	Kind    string `json:"kind"`
	Name    string `json:"name"`
	Kstatus string `json:"kstatus"`
	ArgoCD  string `json:"argocd"`
	// Message is what Argo CD shows beside the health.
	Message string `json:"message"`
	Flux    string `json:"flux"`
}

func main() {
	argocdFile := flag.String("argocd", "", "a ConfigMap argocd-cm")
	fluxFile := flag.String("flux", "", "a Kustomization")
	flag.Parse()
	if err := run(*argocdFile, *fluxFile); err != nil {
		fmt.Fprintln(os.Stderr, "health:", err)
		os.Exit(1)
	}
}

func run(argocdFile, fluxFile string) error {
	argocd, err := readArgoCD(argocdFile)
	if err != nil {
		return fmt.Errorf("%s: %w", argocdFile, err)
	}
	flux, err := readFlux(fluxFile)
	if err != nil {
		return fmt.Errorf("%s: %w", fluxFile, err)
	}
	text, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	list := &unstructured.UnstructuredList{}
	if err := list.UnmarshalJSON(text); err != nil {
		return fmt.Errorf("the list on standard input: %w", err)
	}
	answers := make([]answer, 0, len(list.Items))
	for i := range list.Items {
		object := &list.Items[i]
		said, err := ask(object, argocd, flux)
		if err != nil {
			return fmt.Errorf("%s %s: %w", object.GetKind(), object.GetName(), err)
		}
		answers = append(answers, said)
	}
	return json.NewEncoder(os.Stdout).Encode(answers)
}

func ask(object *unstructured.Unstructured, argocd argoCD, flux flux) (answer, error) {
	said := answer{Kind: object.GetKind(), Name: object.GetName()}
	computed, err := status.Compute(object)
	if err != nil {
		return said, fmt.Errorf("kstatus: %w", err)
	}
	said.Kstatus = computed.Status.String()
	if said.ArgoCD, said.Message, err = argocd.health(object); err != nil {
		return said, fmt.Errorf("Argo CD: %w", err)
	}
	if said.Flux, err = flux.health(object); err != nil {
		return said, fmt.Errorf("Flux: %w", err)
	}
	return said, nil
}
