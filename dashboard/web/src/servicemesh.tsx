import { mesh as askMesh, type Component, type Mesh } from "./api";
import { whole } from "./format";
import { behind, byKind, componentSum, kindName, podHealth, podStatus, podTitle, troubles, unmeshed, versions } from "./mesh";
import { Problem, Section } from "./parts";
import { usePoll } from "./poll";
import { overviewHref } from "./route";

function ComponentRow({ component }: { component: Component }) {
  const { ready, total, restarts } = componentSum(component);
  const wrong = [...new Set(component.pods.filter((p) => podHealth(p) !== "good").map(podStatus))];
  return (
    <tr data-component={component.name}>
      <th scope="row">
        <span class="name">{component.name}</span>
        <span class="ns">{component.resource.kind}/{component.resource.name}</span>
      </th>
      <td class="pods">
        <span class="dots">
          {component.pods.map((p) => (
            <span key={p.name} class={`dot ${podHealth(p)}`} role="img" title={podTitle(p)} aria-label={podTitle(p)} />
          ))}
          {wrong.length > 0 && <small class="warn-text">{wrong.join(", ")}</small>}
        </span>
      </td>
      <td data-label="Ready" class={ready < total ? "warn-text" : undefined}>
        {ready}/{total}
      </td>
      <td data-label="Restarts">{restarts}</td>
      <td data-label="Version" class="mono">{component.version || "–"}</td>
    </tr>
  );
}

/** A share as a bar; the numbers stand beside it. */
function Share({ part, of }: { part: number; of: number }) {
  return (
    <span class="share">
      <span class="bar" aria-hidden="true">
        <i style={{ width: `${of === 0 ? 0 : (100 * part) / of}%` }} />
      </span>
      {whole(part)}/{whole(of)}
    </span>
  );
}

function Numbers({ mesh }: { mesh: Mesh }) {
  const deployments = mesh.kinds.find((k) => k.kind === "deploy");
  const all = versions(mesh.proxy_versions);
  return (
    <dl class="tiles">
      {mesh.kubernetes && (
        <>
          <div>
            <dt>Deployments meshed</dt>
            <dd>
              {whole(deployments?.meshed ?? 0)}
              <small>
                {whole((deployments?.unmeshed ?? 0) + (deployments?.partly ?? 0))} not{(deployments?.partly ?? 0) > 0 && `, ${whole(deployments!.partly)} of them partly`}
              </small>
            </dd>
          </div>
          <div>
            <dt>Pods meshed</dt>
            <dd>
              {whole(mesh.pods?.meshed ?? 0)}
              <small>of {whole(mesh.pods?.total ?? 0)}</small>
            </dd>
          </div>
        </>
      )}
      <div>
        <dt>Data-plane proxies</dt>
        <dd>
          {whole(mesh.proxies_live)}
          <small>report{mesh.kubernetes && mesh.pods && `, ${whole(mesh.pods.proxy_ready)} of ${whole(mesh.pods.meshed)} ready`}</small>
        </dd>
      </div>
      {all.length > 0 && (
        <div>
          <dt>Proxy versions</dt>
          <dd class="codes">
            {all.map(([version, n]) => (
              <span key={version} class="code">
                {version} <b>{whole(n)}</b>
              </span>
            ))}
          </dd>
        </div>
      )}
      <div>
        <dt>Aggregators</dt>
        <dd>
          {mesh.aggregators?.answered ?? 0}
          <small>of {mesh.aggregators?.total ?? 0} answer{mesh.bus && `, ${behind(mesh).toFixed(1)} s behind`}</small>
        </dd>
      </div>
      <div>
        <dt>API</dt>
        <dd>{mesh.server?.version}</dd>
      </div>
    </dl>
  );
}

/** What to do next: the commands that mesh what is not meshed yet. */
function Next({ mesh }: { mesh: Mesh }) {
  const waiting = unmeshed(mesh);
  const [first] = waiting;
  if (!mesh.kubernetes || mesh.kubernetes_error || !first) return null;
  return (
    <Section title="What to do next">
      <div class="next">
        <p>
          {waiting.length === 1 ? `Pods in ${first.namespace} have` : `${waiting.length} namespaces have pods that have`} no proxy. Add
          it to their workloads, which restarts them:
        </p>
        <pre>
          <code>
            kubectl -n {first.namespace} get deploy -o yaml | weir inject - | kubectl apply -f -
          </code>
        </pre>
        <p>Or have all new pods of the namespace injected:</p>
        <pre>
          <code>kubectl label namespace {first.namespace} weir.dev/inject=enabled</code>
        </pre>
      </div>
    </Section>
  );
}

function Kubernetes({ mesh }: { mesh: Mesh }) {
  return (
    <>
      <Section title="Control plane">
        <div class="scroll">
          <table class="cards">
            <thead>
              <tr>
                <th scope="col">Component</th>
                <th scope="col">Pods</th>
                <th scope="col">Ready</th>
                <th scope="col">Restarts</th>
                <th scope="col">Version</th>
              </tr>
            </thead>
            <tbody>
              {mesh.components.map((c) => (
                <ComponentRow key={c.resource.kind + c.resource.name} component={c} />
              ))}
            </tbody>
          </table>
        </div>
      </Section>
      <Next mesh={mesh} />
      <div class="charts">
        <Section title="Namespaces">
          <div class="scroll">
            <table>
              <thead>
                <tr>
                  <th scope="col">Namespace</th>
                  <th scope="col">Pods meshed</th>
                </tr>
              </thead>
              <tbody>
                {mesh.namespaces.map((n) => (
                  <tr key={n.namespace} data-namespace={n.namespace}>
                    <th scope="row">
                      <a class="name" href={overviewHref(n.namespace)}>{n.namespace}</a>
                    </th>
                    <td><Share part={n.pods.meshed} of={n.pods.total} /></td>
                  </tr>
                ))}
              </tbody>
            </table>
          </div>
          {mesh.namespaces_total > mesh.namespaces.length && (
            <p class="about">The {mesh.namespaces.length} with the most pods, of {mesh.namespaces_total}.</p>
          )}
        </Section>
        <Section title="Workloads">
          <div class="scroll">
            <table>
              <thead>
                <tr>
                  <th scope="col">Kind</th>
                  <th scope="col" class="num">Meshed</th>
                  <th scope="col" class="num">Partly</th>
                  <th scope="col" class="num">Not</th>
                </tr>
              </thead>
              <tbody>
                {[...mesh.kinds].sort(byKind).map((k) => (
                  <tr key={k.kind}>
                    <th scope="row">{kindName(k.kind)}</th>
                    <td class="num">{whole(k.meshed)}</td>
                    <td class="num">{whole(k.partly)}</td>
                    <td class="num">{whole(k.unmeshed)}</td>
                  </tr>
                ))}
              </tbody>
            </table>
          </div>
        </Section>
      </div>
    </>
  );
}

/** How the mesh itself does. */
export function ServiceMesh() {
  const { data: mesh, error } = usePoll(askMesh, 3000, []);
  const wrong = mesh ? troubles(mesh) : [];
  return (
    <main>
      <div class="page-head">
        <h1>Service mesh</h1>
        {mesh?.cluster && <span class="dim">cluster {mesh.cluster}</span>}
      </div>
      <Problem error={error} />
      {!mesh && !error && <p class="dim">Asking the API…</p>}
      {wrong.length > 0 && (
        <div class="notice" role="alert">
          {wrong.map((w) => (
            <p key={w}>{w}.</p>
          ))}
          <p>
            <code>weir check</code> says what to do.
          </p>
        </div>
      )}
      {mesh && <Numbers mesh={mesh} />}
      {mesh?.kubernetes && !mesh.kubernetes_error && <Kubernetes mesh={mesh} />}
      {mesh && !mesh.kubernetes && (
        <div class="empty">
          <p>No controller answers: this mesh runs outside of Kubernetes.</p>
          <p>
            In a cluster, <code>weir install | kubectl apply -f -</code> installs one, and <code>weir check</code> says how it does.
          </p>
        </div>
      )}
    </main>
  );
}
