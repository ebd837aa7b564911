# The image of launch/cloud/serve.yaml: docker build -f launch/cloud/serve.Dockerfile -t IMAGE .
# For GPUs and TPUs: --build-arg EXTRAS=serve,cuda or serve,tpu
#   docker run -p 8765:8765 -v ./model:/model:ro -e TOKEN=... IMAGE
FROM python:3.11-slim
ARG EXTRAS=serve
WORKDIR /echox
COPY . .
RUN pip install --no-cache-dir -c constraints.txt -e ".[${EXTRAS}]" && useradd --create-home echox
USER echox
EXPOSE 8765
# exec: SIGTERM must reach the server, which lets answers end
CMD ["sh", "-c", "exec python -m launch.serve --checkpoint /model --host 0.0.0.0 --token \"$TOKEN\""]
