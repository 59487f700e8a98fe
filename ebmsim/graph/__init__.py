"""What is computed: operators, the graph they form, its gradients, fusion, and the kernels it becomes."""
