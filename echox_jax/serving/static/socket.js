// The connection to the server: the Realtime protocol, and no other.

const FRAGMENT = /^#token=([A-Za-z0-9._~-]+)$/;

// The token comes as a fragment, which browsers send to nobody, and leaves the address at once.
function token() {
  const found = location.hash.match(FRAGMENT);
  if (found) {
    sessionStorage.setItem('token', found[1]);
    history.replaceState(null, '', location.pathname);
  }
  return sessionStorage.getItem('token');
}

export class Connection extends EventTarget {
  open() {
    const own = token();
    const protocols = ['realtime', ...(own ? [`openai-insecure-api-key.${own}`] : [])];
    const scheme = location.protocol === 'https:' ? 'wss:' : 'ws:';
    this.socket = new WebSocket(`${scheme}//${location.host}/v1/realtime?model=echox`, protocols);
    this.socket.onmessage = (message) => {
      const event = JSON.parse(message.data);
      this.dispatchEvent(new CustomEvent('any', {detail: event}));
    };
    this.socket.onclose = (close) => {
      this.dispatchEvent(new CustomEvent('closed', {detail: close}));
    };
  }

  send(type, fields = {}) {
    if (this.socket.readyState === WebSocket.OPEN) {
      this.socket.send(JSON.stringify({type, ...fields}));
    }
  }
}
