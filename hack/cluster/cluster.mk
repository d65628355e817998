CLUSTER := hack/cluster/cluster

cluster-check: ## Check what the local cluster needs of this machine
	@$(CLUSTER) check

cluster-build: ## Compile Kubernetes, KubeRay, Helm and kubeconform (cached)
	@$(CLUSTER) build

cluster-up: ## Start the local cluster with KubeRay (safe to run twice)
	@$(CLUSTER) up && $(CLUSTER) kuberay

cluster-kueue: ## Add Kueue to the running local cluster; REMOVE=1 takes it away
	@$(CLUSTER) kueue $(if $(REMOVE),--remove)

cluster-down: ## Stop the local cluster; PURGE=1 removes its state folder too
	@$(CLUSTER) down $(if $(PURGE),--purge)

cluster-status: ## Show each part of the local cluster
	@$(CLUSTER) status

kubeconfig: ## Print the path of the local cluster's kubeconfig
	@$(CLUSTER) kubeconfig

store: ## Print the folder behind the local cluster's pvc:// stores
	@$(CLUSTER) store

.PHONY: cluster-check cluster-build cluster-up cluster-kueue cluster-down cluster-status kubeconfig store
